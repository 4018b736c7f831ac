"""FLEURS as on the Hub: data/LANGUAGE/{SPLIT.tsv, audio/SPLIT.tar.gz}, packed or unpacked.

A table has no header. Its columns: sentence number, file, raw text, normalized text, the latter's
characters, samples, gender. Several speakers read one sentence, so only files identify clips.
https://huggingface.co/datasets/google/fleurs
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from data.atomic_files import replace_nul
from data.audio.tar import locator, members
from data.config import DataConfig
from data.errors import InputError
from data.log_mel import SAMPLE_RATE
from data.paths import resolve_inside
from data.utterance import Utterance

DESCRIPTION = "*.tsv and audio/"
PACKED = ("tar.gz", "tar")
COLUMNS = 7
TEXTS = {"auto": 2, "raw_transcription": 2, "transcription": 3}  # raw: with case and punctuation
FOLDER = re.compile(r"([a-z]{2,3})(_[a-z]{4})?_([a-z]{2}|\d{3})")  # ko_kr, cmn_hans_cn, es_419
WHISPER = {"cmn": "zh", "fil": "tl", "jv": "jw", "nb": "no"}  # others are the same


def matches(path: Path) -> bool:
    """Return whether a folder has the layout of a language of FLEURS."""
    return any(
        (path / "audio" / table.stem).is_dir() or _packed(table) for table in path.glob("*.tsv")
    )


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the rows of CORPUS/SPLIT.tsv, with durations.

    Raises:
        InputError: the table or the audio is missing or broken.
    """
    folder = Path(corpus)
    table = folder / f"{split}.tsv"
    if not table.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.tsv"))) or "none"
        raise InputError(f"{table}: no such file; splits of {folder}: {known}")
    if config.text_column not in TEXTS:
        raise InputError(
            f"data.text_column is {config.text_column!r}; FLEURS has {', '.join(TEXTS)}"
        )
    find = _finder(table)
    language = FOLDER.fullmatch(folder.absolute().name)
    for line, cells in _rows(table):
        yield Utterance(
            id=f"{folder.name}/{cells[1]}",
            audio=find(cells[1]),
            text=cells[TEXTS[config.text_column]].strip(),
            seconds=_samples(table, line, cells[5]) / SAMPLE_RATE,
            language=WHISPER.get(language[1], language[1]) if language else None,
            gender=cells[6].strip().lower() or None,
        )


def _finder(table: Path) -> Callable[[str], str]:
    """Return a function from file name to Utterance.audio, in a folder if it exists, or an archive.

    Raises:
        InputError: there is neither a folder nor an archive.
    """
    unpacked, packed = table.parent / "audio" / table.stem, _packed(table)
    if unpacked.is_dir():
        return lambda name: resolve_inside(unpacked, name, table)
    if packed is None:
        raise InputError(
            f"{unpacked}: no such folder, nor {unpacked.name}.tar.gz; download it again"
        )
    archived = {PurePosixPath(name).name: member for name, member in members(packed).items()}

    def find(name: str) -> str:
        return (
            locator(packed, archived[name]) if name in archived else f"{packed.absolute()}/{name}"
        )

    return find


def _packed(table: Path) -> Path | None:
    audio = table.parent / "audio"
    names = (audio / f"{table.stem}.{suffix}" for suffix in PACKED)
    return next((path for path in names if path.is_file()), None)


def _rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line numbers and cells. Quotes are text."""
    try:
        lines = table.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{table}: not a table in UTF-8 ({error}); download it again") from error
    for number, line in enumerate(replace_nul(lines), 1):
        cells = line.split("\t")
        if line and len(cells) != COLUMNS:
            raise InputError(
                f"{table}, line {number}: {len(cells)} columns instead of {COLUMNS}; "
                "download it again"
            )
        if line:
            yield number, cells


def _samples(table: Path, line: int, cell: str) -> int:
    if not cell.isdecimal():
        raise InputError(f"{table}, line {line}: {cell!r} is not a number of samples")
    return int(cell)
