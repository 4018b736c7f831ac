"""Kaldi's data directories: wav.scp and text, and optionally segments, speakers and durations.

wav.scp may list any file of the machine, unlike other corpora (data.paths): absolute paths are
usual in it, and it was made for this machine. Relative paths are resolved from the working
directory, as in Kaldi and lhotse, then from wav.scp's folder. Commands are never run.
https://kaldi-asr.org/doc/data_prep.html
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data.config import DataConfig
from data.corpora.find_files import peek_folders, subfolders
from data.corpora.text_tables import read_pairs, seconds_of
from data.errors import InputError
from data.utterance import Utterance

DESCRIPTION = "wav.scp, or folders with one"
OFFSET = re.compile(r":\d+(\[.*\])?$")  # data/raw.ark:1234
MAX_TRIED = 20  # relative paths that are tried, to find their base folder


class Segment(NamedTuple):
    """A part of a recording."""

    recording: str
    start: float = 0.0  # seconds
    end: float | None = None  # seconds; None: the end of the recording


def matches(path: Path) -> bool:
    """Return whether a folder, or a subfolder, is a data directory."""
    return any((folder / "wav.scp").is_file() for folder in (path, *peek_folders(path)))


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the utterances of CORPUS/SPLIT, or of CORPUS itself, which is `train`.

    Raises:
        InputError: a file is missing or damaged, or lists audio that is not a file.
    """
    folder = _folder(Path(corpus), split)
    texts = read_pairs(folder / "text")
    recordings = _recordings(folder / "wav.scp")
    segments = _segments(folder / "segments", recordings)
    speakers = _speakers(folder)
    lengths, whole = _numbers(folder / "utt2dur"), _numbers(folder / "reco2dur")
    for name in dict.fromkeys([*segments, *texts]):
        segment = segments.get(name, Segment(""))
        audio = recordings.get(segment.recording, "")
        fault = "no transcript" if name not in texts else "" if audio else "not in wav.scp"
        remaining = max(0.0, whole.get(segment.recording, 0.0) - segment.start)
        yield Utterance(
            id=f"{Path(corpus).name}/{name}",
            audio=audio,
            text=texts.get(name, "").strip(),
            seconds=lengths.get(name, remaining)
            if segment.end is None
            else segment.end - segment.start,
            speaker=speakers.get(name),
            start=segment.start,
            end=segment.end,
            fault=fault,
        )


def _folder(corpus: Path, split: str) -> Path:
    if (corpus / split / "wav.scp").is_file():
        return corpus / split
    if (corpus / "wav.scp").is_file() and split in ("train", corpus.name):
        return corpus
    known = _splits(corpus) or ["train"]
    raise InputError(
        f"{corpus / split / 'wav.scp'}: no such file; splits of {corpus}: {', '.join(known)}"
    )


def _splits(corpus: Path) -> list[str]:
    return [name for name in subfolders(corpus) if (corpus / name / "wav.scp").is_file()]


def _recordings(table: Path) -> dict[str, str]:
    """Return absolute paths by recording."""
    paths = read_pairs(table)
    for name, path in paths.items():
        if path.endswith("|") or path.startswith("|"):
            raise InputError(
                f"{table}: {name} is a command ({path}), and commands of a corpus are never run: "
                "write its output to a file, and list that"
            )
        if OFFSET.search(path) or not path:
            raise InputError(
                f"{table}: {name} is {path or 'nothing'!r}, which is not an audio file: "
                "copy its audio out of the archive with Kaldi's wav-copy, and list that file"
            )
    base = _base_folder(table, [path for path in paths.values() if not os.path.isabs(path)])
    return {name: os.path.abspath(os.path.join(base, path)) for name, path in paths.items()}


def _base_folder(table: Path, relative: Sequence[str]) -> str:
    """Return the folder that relative paths start from: the first in which one of them exists."""
    for base in (os.getcwd(), str(table.parent)):
        if any(os.path.exists(os.path.join(base, path)) for path in relative[:MAX_TRIED]):
            return base
    return os.getcwd()


def _segments(table: Path, recordings: dict[str, str]) -> dict[str, Segment]:
    """Return segments by utterance; without a table, each recording is one utterance."""
    if not table.is_file():
        return {name: Segment(name) for name in recordings}
    return {name: _segment(f"{table}: {name}", row) for name, row in read_pairs(table).items()}


def _segment(where: str, row: str) -> Segment:
    words = row.split()
    if len(words) != 3:
        raise InputError(f"{where}: expected RECORDING START END, got {row!r}")
    start = seconds_of(words[1], f"{where}: start")
    if words[2] in ("-1", "-1.0"):  # Kaldi's notation for an unknown end
        return Segment(words[0], start)
    end = seconds_of(words[2], f"{where}: end")
    if end <= start:
        raise InputError(f"{where}: end is {end} and start {start}: end must be later")
    return Segment(words[0], start, end)


def _speakers(folder: Path) -> dict[str, str]:
    """Return speakers by utterance, from utt2spk or spk2utt."""
    if (folder / "utt2spk").is_file():
        return read_pairs(folder / "utt2spk")
    if not (folder / "spk2utt").is_file():
        return {}
    rows = read_pairs(folder / "spk2utt")
    return {name: speaker for speaker, names in rows.items() for name in names.split()}


def _numbers(table: Path) -> dict[str, float]:
    """Return seconds by name; empty if the file does not exist."""
    rows = read_pairs(table) if table.is_file() else {}
    return {name: seconds_of(value, f"{table}: {name}") for name, value in rows.items()}
