"""Mozilla Common Voice's folder: clips/*.mp3 and one .tsv a split, in any release."""

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from operator import itemgetter
from pathlib import Path

from data.atomic_files import mended
from data.config import DataConfig
from data.corpora.folders import holds
from data.errors import InputError
from data.paths import inside
from data.utterance import Utterance

MIXED = {"validated", "other", "invalidated"}  # hold sentences and speakers of dev and test
LOOKS = "clips/ and *.tsv"
# tables that are no splits
OTHERS = {"clip_durations", "reported", "times", "validated_sentences", "unvalidated_sentences"}


# what clip_durations.tsv says, while read_once() holds
_READ: ContextVar[dict[Path, dict[str, float]] | None] = ContextVar("_READ", default=None)


@contextmanager
def read_once() -> Iterator[None]:
    """Read a corpus's lengths once for all of its splits, and forget them at the end.

    Of two million clips that takes 3 seconds, and 0.3 GB.
    """
    token = _READ.set({})
    try:
        yield
    finally:
        _READ.reset(token)


def holds_speakers_of_all(split: str) -> bool:
    """Tell whether a split holds sentences and speakers of dev and test: train, by design, none."""
    return not MIXED.isdisjoint(re.split("[+,]", split))


def matches(path: Path) -> bool:
    """Tell whether a folder looks like a language's of Common Voice."""
    return holds(path, ".tsv")


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the rows of CORPUS/SPLIT.tsv, with lengths from clip_durations.tsv (since 16.1).

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
        known = sorted({path.stem for path in folder.glob("*.tsv")} - OTHERS)
        raise InputError(f"{table}: no such file; splits of {folder}: {', '.join(known) or 'none'}")
    seconds = _lengths(folder / "clip_durations.tsv")
    clips, home = folder.absolute() / "clips", folder.name
    columns = ("locale", "client_id", "age", "gender", "accents", "accent")  # accent: old releases
    rows = _rows(table, ("path", "sentence"), columns)
    for path, sentence, locale, speaker, age, gender, accents, accent in rows:
        name = path if path.endswith(".mp3") else f"{path}.mp3"  # releases 1 to 3
        yield Utterance(
            id=f"{home}/{name}",
            audio=inside(clips, name, table),
            text=sentence.strip(),
            seconds=seconds.get(name, 0.0),
            language=_language(locale or home),
            speaker=speaker or None,
            age=age or None,
            gender=gender or None,
            accent=accents or accent or None,
        )


def _rows(table: Path, needed: Sequence[str], known: Sequence[str] = ()) -> Iterator[Sequence[str]]:
    """Yield the cells of some columns, empty where a row or a release does not have them.

    Quotes inside sentences are text, as Common Voice writes them. Not a DictReader: a release has
    two tables of two million rows.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(mended(file), delimiter="\t", quoting=csv.QUOTE_NONE)
            header = next(rows, [])
            missing = [column for column in needed if column not in header]
            if missing:
                raise InputError(f"{table}: no column {missing[0]!r}; it has {header}")
            wide = len(header)
            places = [header.index(c) if c in header else wide for c in (*needed, *known)]
            cells = itemgetter(*places)
            for row in filter(None, rows):
                row[wide:] = [""] * max(1, wide + 1 - len(row))
                yield cells(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{table}: not a table in UTF-8 ({error}); unpack the corpus again"
        ) from error


def _lengths(table: Path) -> dict[str, float]:
    read = _READ.get()
    if read is None:
        return _durations(table)
    if table not in read:
        read[table] = _durations(table)
    return read[table]


def _durations(table: Path) -> dict[str, float]:
    """Return seconds by clip name, or nothing for releases that do not have the file."""
    if not table.is_file():
        return {}
    seconds: dict[str, float] = {}
    known: dict[str, float] = {}  # one number for all clips of a length: among millions many are
    for clip, duration in _rows(table, ("clip", "duration[ms]")):
        length = known.get(duration)
        if length is None:
            length = known[duration] = _seconds(duration, clip, table)
        seconds[clip] = length
    return seconds


def _seconds(duration: str, clip: str, table: Path) -> float:
    try:
        return int(duration) / 1000
    except ValueError as error:
        raise InputError(
            f"{table}: {clip} has a duration of {duration!r}, "
            "not of whole milliseconds; remove the file to measure the clips instead"
        ) from error


@cache
def _language(locale: str) -> str:
    """Turn Common Voice's locale into Whisper's code: zh-TW → zh."""
    return locale.split("-")[0].lower()
