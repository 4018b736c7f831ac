"""AISHELL-1 (read Mandarin): one folder per speaker, one list of transcripts for all splits.

data_aishell/wav/{train,dev,test}/S0002/BAC009S0002W0122.wav and
data_aishell/transcript/aishell_transcript_v0.8.txt; https://www.openslr.org/33/
"""

import re
from collections.abc import Iterator
from pathlib import Path

from data.config import DataConfig
from data.corpora.find_files import split_folder, subfolders, walk
from data.corpora.text_tables import read_pairs
from data.corpora.transcript_rules import Rule, apply
from data.errors import InputError
from data.paths import resolve_inside
from data.utterance import Utterance

DESCRIPTION = "wav/ and transcript/"
TRANSCRIPTS = "transcript/aishell_transcript_v0.8.txt"
SPEAKER = re.compile(r"S\d{4}")  # of BAC009S0002W0122

FULL_WIDTH = [*range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B)]  # Ａ to Ｚ, ａ to ｚ
TO_HALF_WIDTH = {wide: wide - 0xFEE0 for wide in FULL_WIDTH}
RULES = (
    Rule("full-width letters folded", lambda t: t.translate(TO_HALF_WIDTH)),
    Rule("spaces between words removed", lambda t: "".join(t.split())),
)


def matches(path: Path) -> bool:
    """Return whether a folder, or data_aishell in it, has AISHELL's layout."""
    root = _root(path)
    return (root / "wav").is_dir() and (root / "transcript").is_dir()


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the .wav files of a split, and transcripts of its speakers without a file.

    AISHELL has some hundred .wav files without a transcript: they get a fault, and are counted.

    Raises:
        InputError: the split or the transcripts are missing.
    """
    root = _root(Path(corpus))
    wavs = root / "wav"
    if not subfolders(wavs) and any(wavs.glob("*.tar.gz")):
        raise InputError(f"{wavs}: has only archives, one per speaker: unpack them there")
    folder = split_folder(wavs, split)
    texts = read_pairs(root / TRANSCRIPTS)
    names = {
        name.removesuffix(".wav"): str((place / name).relative_to(wavs))
        for place, files in walk(folder)
        for name in files
        if name.endswith(".wav")
    }
    missing = {
        n: f"{split}/{_speaker(n)}/{n}.wav" for n in _ids_without_audio(wavs, split, texts, names)
    }
    for name, path in (names | missing).items():
        text, rules = apply(texts.get(name, ""), RULES)
        yield Utterance(
            id=f"{Path(corpus).name}/{name}",
            audio=resolve_inside(wavs, path, wavs),
            text=text,
            language="zh",
            speaker=_speaker(name) or None,
            rules=rules,
            fault="" if name in texts else "no transcript",
        )


def _ids_without_audio(
    wavs: Path, split: str, texts: dict[str, str], names: dict[str, str]
) -> list[str]:
    """Return ids of transcripts of a split's speakers without a .wav.

    A speaker without a folder is assumed to be in train, as 340 of the 400 are.
    """
    split_of_speaker = {
        speaker: part for part in subfolders(wavs) for speaker in subfolders(wavs / part)
    }
    return [
        n for n in texts if n not in names and split_of_speaker.get(_speaker(n), "train") == split
    ]


def _speaker(name: str) -> str:
    match = SPEAKER.search(name)
    return match[0] if match else ""


def _root(path: Path) -> Path:
    return path / "data_aishell" if (path / "data_aishell").is_dir() else path
