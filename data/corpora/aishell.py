"""AISHELL-1: read Mandarin, in folders of speakers, with one list of transcripts for all splits.

data_aishell/wav/{train,dev,test}/S0002/BAC009S0002W0122.wav and
data_aishell/transcript/aishell_transcript_v0.8.txt; https://www.openslr.org/33/
"""

import re
from collections.abc import Iterator
from pathlib import Path

from data.config import DataConfig
from data.corpora.folders import split_folder, subfolders, walk
from data.corpora.text_rules import Rule, apply
from data.corpora.text_tables import read_pairs
from data.errors import InputError
from data.paths import inside
from data.utterance import Utterance

LOOKS = "wav/ and transcript/"
TRANSCRIPTS = "transcript/aishell_transcript_v0.8.txt"
SPEAKER = re.compile(r"S\d{4}")  # of BAC009S0002W0122

WIDE = [*range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B)]  # Ａ to Ｚ, ａ to ｚ
LETTERS = {wide: wide - 0xFEE0 for wide in WIDE}
RULES = (
    Rule("full-width letters folded", lambda t: t.translate(LETTERS)),
    Rule("spaces between words removed", lambda t: "".join(t.split())),
)


def matches(path: Path) -> bool:
    """Tell whether a folder, or data_aishell in it, looks like AISHELL's."""
    root = _root(path)
    return (root / "wav").is_dir() and (root / "transcript").is_dir()


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the .wav files of a split, and what else the transcripts list of its speakers.

    AISHELL has some hundred .wav files without a transcript: they have a fault, and are counted.

    Raises:
        InputError: the split or the transcripts are missing.
    """
    root = _root(Path(corpus))
    wavs = root / "wav"
    if not subfolders(wavs) and any(wavs.glob("*.tar.gz")):
        raise InputError(f"{wavs}: holds archives alone: unpack them there, each is a speaker")
    folder = split_folder(wavs, split)
    texts = read_pairs(root / TRANSCRIPTS)
    names = {
        name.removesuffix(".wav"): str((place / name).relative_to(wavs))
        for place, files in walk(folder)
        for name in files
        if name.endswith(".wav")
    }
    missing = {n: f"{split}/{_speaker(n)}/{n}.wav" for n in _unheard(wavs, split, texts, names)}
    for name, path in (names | missing).items():
        text, rules = apply(texts.get(name, ""), RULES)
        yield Utterance(
            id=f"{Path(corpus).name}/{name}",
            audio=inside(wavs, path, wavs),
            text=text,
            language="zh",
            speaker=_speaker(name) or None,
            rules=rules,
            fault="" if name in texts else "no transcript",
        )


def _unheard(wavs: Path, split: str, texts: dict[str, str], names: dict[str, str]) -> list[str]:
    """Return ids that the transcripts list for a split's speakers, and that have no .wav.

    A speaker who has no folder is taken to be of train, as 340 of the 400 are.
    """
    homes = {speaker: part for part in subfolders(wavs) for speaker in subfolders(wavs / part)}
    return [n for n in texts if n not in names and homes.get(_speaker(n), "train") == split]


def _speaker(name: str) -> str:
    found = SPEAKER.search(name)
    return found[0] if found else ""


def _root(path: Path) -> Path:
    return path / "data_aishell" if (path / "data_aishell").is_dir() else path
