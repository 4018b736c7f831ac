"""Audio files, each next to a .txt: a.wav and a.txt, in SPLIT/ and below, or flat in one folder.

A flat folder is `train`. Audio files without a text, and texts without audio, get a fault, and are
counted.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from data.config import DataConfig
from data.corpora.find_files import is_audio, peek, peek_folders, split_folder, walk
from data.corpora.text_tables import read_text
from data.corpora.transcript_rules import Rule, apply
from data.errors import InputError
from data.paths import resolve_inside
from data.utterance import Utterance

DESCRIPTION = "audio files, each next to a .txt"
MAX_DEPTH = 2  # levels of folders that matches() searches: SPLIT/SPEAKER/a.wav
MAX_ENTRIES = 10  # files and folders that it tries in each
RULES = (Rule("lines joined", lambda t: " ".join(filter(None, map(str.strip, t.split("\n"))))),)


def matches(path: Path) -> bool:
    """Return whether a folder has audio files next to texts."""
    return _paired(path, MAX_DEPTH)


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the audio files of a split, and texts without audio.

    Raises:
        InputError: the split is missing, or audio is both flat and in folders.
    """
    root = Path(corpus)
    flat = any(is_audio(name) for name in peek(root))
    if flat and split != "train":
        raise InputError(
            f"{root}: audio is flat in it, so all of it is train, and there is no {split}: make "
            f"folders train, {split} …, or omit the split, as with data.dev_split=none"
        )
    for folder, names in walk(root if flat else split_folder(root, split)):
        if flat and folder != root and any(map(is_audio, names)):
            raise InputError(
                f"{root}: audio is both flat in it and in {folder.name}: make one folder per split"
            )
        for name, text, fault in _pairs(root, folder, names):
            transcript, rules = apply(text, RULES)
            yield Utterance(
                id=f"{root.name}/{os.path.splitext(name)[0]}",
                audio=resolve_inside(root, name, root),
                text=transcript,
                rules=rules,
                fault=fault,
            )


def _pairs(root: Path, folder: Path, names: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield path, text and fault of each audio file, and of each text without audio."""
    place = folder.relative_to(root)
    texts = {name[:-4]: str(place / name) for name in names if name.endswith(".txt")}
    audio_files = {str(place / name): os.path.splitext(name)[0] for name in names if is_audio(name)}
    for stem in sorted(texts.keys() - audio_files.values()):
        yield texts[stem], "", "text without audio"
    for name, stem in audio_files.items():
        text, fault = "", "no transcript"
        if stem in texts:
            text, fault = read_text(Path(resolve_inside(root, texts[stem], root)))
        yield name, text, fault


def _paired(folder: Path, depth: int) -> bool:
    audio = [name for name in peek(folder) if is_audio(name)][:MAX_ENTRIES]
    if any((folder / name).with_suffix(".txt").is_file() for name in audio):
        return True
    return depth > 0 and any(
        _paired(below, depth - 1) for below in peek_folders(folder)[:MAX_ENTRIES]
    )
