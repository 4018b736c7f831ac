"""Mozilla Common Voice: clips/*.mp3 and one .tsv per split, in any release."""

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from operator import itemgetter
from pathlib import Path

from data.atomic_files import replace_nul
from data.config import DataConfig
from data.corpora.find_files import has_suffix
from data.errors import InputError
from data.paths import resolve_inside
from data.utterance import Utterance

MIXED = {"validated", "other", "invalidated"}  # contain sentences and speakers of dev and test
DESCRIPTION = "clips/ and *.tsv"
# tables that are not splits
OTHERS = {"clip_durations", "reported", "times", "validated_sentences", "unvalidated_sentences"}


# contents of each clip_durations.tsv, within cache_durations()
_DURATIONS: ContextVar[dict[Path, dict[str, float]] | None] = ContextVar("_READ", default=None)


@contextmanager
def cache_durations() -> Iterator[None]:
    """Read each corpus's clip_durations.tsv once for all splits; release it at the end.

    Reading two million clips takes 3 seconds and 0.3 GB.
    """
    token = _DURATIONS.set({})
    try:
        yield
    finally:
        _DURATIONS.reset(token)


def contains_held_out_speakers(split: str) -> bool:
    """Return whether a split contains speakers and sentences of dev and test; train does not."""
    return not MIXED.isdisjoint(re.split("[+,]", split))


def matches(path: Path) -> bool:
    """Return whether a folder has the layout of a language of Common Voice."""
    return has_suffix(path, ".tsv")


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the rows of CORPUS/SPLIT.tsv, with durations from clip_durations.tsv (since 16.1).

    Raises:
        InputError: the folder or the split is missing, or has other columns.
    """
    folder = Path(corpus)
    table = folder / f"{split}.tsv"
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; set data.corpus to a Common Voice language folder"
        )
    if not table.is_file():
        parsed = sorted({path.stem for path in folder.glob("*.tsv")} - OTHERS)
        raise InputError(
            f"{table}: no such file; splits of {folder}: {', '.join(parsed) or 'none'}"
        )
    seconds = _cached_durations(folder / "clip_durations.tsv")
    clips, home = folder.absolute() / "clips", folder.name
    columns = ("locale", "client_id", "age", "gender", "accents", "accent")  # accent: old releases
    rows = _rows(table, ("path", "sentence"), columns)
    for path, sentence, locale, speaker, age, gender, accents, accent in rows:
        name = path if path.endswith(".mp3") else f"{path}.mp3"  # releases 1 to 3
        yield Utterance(
            id=f"{home}/{name}",
            audio=resolve_inside(clips, name, table),
            text=sentence.strip(),
            seconds=seconds.get(name, 0.0),
            language=_language(locale or home),
            speaker=speaker or None,
            age=age or None,
            gender=gender or None,
            accent=accents or accent or None,
        )


def _rows(
    table: Path, needed: Sequence[str], parsed: Sequence[str] = ()
) -> Iterator[Sequence[str]]:
    """Yield the cells of some columns, empty if a row or a release lacks them.

    Quotes inside sentences are text, as Common Voice writes them. This does not use csv.DictReader,
    which is too slow for a release's two tables of two million rows.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(replace_nul(file), delimiter="\t", quoting=csv.QUOTE_NONE)
            header = next(rows, [])
            missing = [column for column in needed if column not in header]
            if missing:
                raise InputError(f"{table}: no column {missing[0]!r}; it has {header}")
            width = len(header)
            places = [header.index(c) if c in header else width for c in (*needed, *parsed)]
            cells = itemgetter(*places)
            for row in filter(None, rows):
                row[width:] = [""] * max(1, width + 1 - len(row))
                yield cells(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{table}: not a table in UTF-8 ({error}); unpack the corpus again"
        ) from error


def _cached_durations(table: Path) -> dict[str, float]:
    cached = _DURATIONS.get()
    if cached is None:
        return _durations(table)
    if table not in cached:
        cached[table] = _durations(table)
    return cached[table]


def _durations(table: Path) -> dict[str, float]:
    """Return seconds by clip name; empty for releases without the file."""
    if not table.is_file():
        return {}
    seconds: dict[str, float] = {}
    parsed: dict[str, float] = {}  # one float object per distinct value, to save memory
    for clip, duration in _rows(table, ("clip", "duration[ms]")):
        length = parsed.get(duration)
        if length is None:
            length = parsed[duration] = _seconds(duration, clip, table)
        seconds[clip] = length
    return seconds


def _seconds(duration: str, clip: str, table: Path) -> float:
    try:
        return int(duration) / 1000
    except ValueError as error:
        raise InputError(
            f"{table}: {clip} has a duration of {duration!r}, which is not an integer number of "
            "milliseconds; remove the file to measure the clips instead"
        ) from error


@cache
def _language(locale: str) -> str:
    """Return Whisper's language code of a Common Voice locale: zh-TW → zh."""
    return locale.split("-")[0].lower()
