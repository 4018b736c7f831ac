"""Kaldi's data directories: wav.scp and text, and optionally segments, speakers and lengths.

wav.scp may name any file of the machine, where other corpora may name their own alone
(data.paths): absolute paths are usual in it, and a person made it for this machine. A relative path
is looked for where the program was started, as Kaldi and lhotse do, then beside wav.scp. A command
is never run. https://kaldi-asr.org/doc/data_prep.html
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data.config import DataConfig
from data.corpora.folders import peek_folders, subfolders
from data.corpora.text_tables import read_pairs, seconds_of
from data.errors import InputError
from data.utterance import Utterance

LOOKS = "wav.scp, or folders with one"
OFFSET = re.compile(r":\d+(\[.*\])?$")  # data/raw.ark:1234
TRIED = 20  # relative paths that are looked for, to tell what they are relative to


class Segment(NamedTuple):
    """A part of a recording."""

    recording: str
    start: float = 0.0  # seconds
    end: float | None = None  # seconds; None: to the recording's end


def matches(path: Path) -> bool:
    """Tell whether a folder, or one in it, is a data directory."""
    return any((folder / "wav.scp").is_file() for folder in (path, *peek_folders(path)))


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the utterances of CORPUS/SPLIT, or of CORPUS itself, which is `train`.

    Raises:
        InputError: a file is missing or damaged, or names audio that is not in a file of its own.
    """
    folder = _folder(Path(corpus), split)
    texts = read_pairs(folder / "text")
    recordings = _recordings(folder / "wav.scp")
    segments = _segments(folder / "segments", recordings)
    speakers = _speakers(folder)
    lengths, whole = _numbers(folder / "utt2dur"), _numbers(folder / "reco2dur")
    for name in dict.fromkeys([*segments, *texts]):
        part = segments.get(name, Segment(""))
        audio = recordings.get(part.recording, "")
        fault = "no transcript" if name not in texts else "" if audio else "not in wav.scp"
        left = max(0.0, whole.get(part.recording, 0.0) - part.start)
        yield Utterance(
            id=f"{Path(corpus).name}/{name}",
            audio=audio,
            text=texts.get(name, "").strip(),
            seconds=lengths.get(name, left) if part.end is None else part.end - part.start,
            speaker=speakers.get(name),
            start=part.start,
            end=part.end,
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
    named = read_pairs(table)
    for name, path in named.items():
        if path.endswith("|") or path.startswith("|"):
            raise InputError(
                f"{table}: {name} is a command ({path}), and commands of a corpus are never run: "
                "write its audio into a file, and name that"
            )
        if OFFSET.search(path) or not path:
            raise InputError(
                f"{table}: {name} is {path or 'nothing'!r}, and not a file of its own: "
                "copy its audio out of the archive with Kaldi's wav-copy, and name that file"
            )
    home = _home(table, [path for path in named.values() if not os.path.isabs(path)])
    return {name: os.path.abspath(os.path.join(home, path)) for name, path in named.items()}


def _home(table: Path, relative: Sequence[str]) -> str:
    """Return what relative paths are relative to: the first place where some of them are."""
    for home in (os.getcwd(), str(table.parent)):
        if any(os.path.exists(os.path.join(home, path)) for path in relative[:TRIED]):
            return home
    return os.getcwd()


def _segments(table: Path, recordings: dict[str, str]) -> dict[str, Segment]:
    """Return parts of recordings by utterance: the recordings themselves where nobody says."""
    if not table.is_file():
        return {name: Segment(name) for name in recordings}
    return {name: _segment(f"{table}: {name}", row) for name, row in read_pairs(table).items()}


def _segment(where: str, row: str) -> Segment:
    words = row.split()
    if len(words) != 3:
        raise InputError(f"{where}: expected RECORDING START END, got {row!r}")
    start = seconds_of(words[1], f"{where}: start")
    if words[2] in ("-1", "-1.0"):  # as Kaldi writes an end that nobody knows
        return Segment(words[0], start)
    end = seconds_of(words[2], f"{where}: end")
    if end <= start:
        raise InputError(f"{where}: end is {end} and start {start}: end must be later")
    return Segment(words[0], start, end)


def _speakers(folder: Path) -> dict[str, str]:
    """Return speakers by utterance, from either file that may say them."""
    if (folder / "utt2spk").is_file():
        return read_pairs(folder / "utt2spk")
    if not (folder / "spk2utt").is_file():
        return {}
    rows = read_pairs(folder / "spk2utt")
    return {name: speaker for speaker, names in rows.items() for name in names.split()}


def _numbers(table: Path) -> dict[str, float]:
    """Return seconds by name, or nothing where there is no such file."""
    rows = read_pairs(table) if table.is_file() else {}
    return {name: seconds_of(value, f"{table}: {name}") for name, value in rows.items()}
