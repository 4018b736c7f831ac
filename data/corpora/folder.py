"""Audio files with a .txt beside each: a.wav and a.txt, in SPLIT/ and below, or flat in one folder.

What lies flat is `train`. An audio file without a text, and a text without audio, have a fault, and
are counted.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from data.config import DataConfig
from data.corpora.folders import is_audio, peek, peek_folders, split_folder, walk
from data.corpora.text_rules import Rule, apply
from data.corpora.text_tables import read_text
from data.errors import InputError
from data.paths import inside
from data.utterance import Utterance

LOOKS = "audio files with a .txt beside each"
DEEP = 2  # folders that a look goes down: SPLIT/SPEAKER/a.wav
WIDE = 10  # files, and folders, that it tries in each
RULES = (Rule("lines joined", lambda t: " ".join(filter(None, map(str.strip, t.split("\n"))))),)


def matches(path: Path) -> bool:
    """Tell whether a folder holds audio with texts beside it."""
    return _paired(path, DEEP)


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the audio files of a split, and the texts that have none.

    Raises:
        InputError: the split is missing, or audio lies both flat and in folders.
    """
    root = Path(corpus)
    flat = any(is_audio(name) for name in peek(root))
    if flat and split != "train":
        raise InputError(
            f"{root}: audio lies flat in it, so all is train, and {split} is none: make folders "
            f"train, {split} …, or go without it, as with data.dev_split=none"
        )
    for folder, names in walk(root if flat else split_folder(root, split)):
        if flat and folder != root and any(map(is_audio, names)):
            raise InputError(
                f"{root}: audio lies flat in it and in {folder.name}: make folders of splits"
            )
        for name, text, fault in _pairs(root, folder, names):
            said, rules = apply(text, RULES)
            yield Utterance(
                id=f"{root.name}/{os.path.splitext(name)[0]}",
                audio=inside(root, name, root),
                text=said,
                rules=rules,
                fault=fault,
            )


def _pairs(root: Path, folder: Path, names: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the place, the text and the fault of each audio file, and of each text without one."""
    place = folder.relative_to(root)
    texts = {name[:-4]: str(place / name) for name in names if name.endswith(".txt")}
    heard = {str(place / name): os.path.splitext(name)[0] for name in names if is_audio(name)}
    for stem in sorted(texts.keys() - heard.values()):
        yield texts[stem], "", "text without audio"
    for name, stem in heard.items():
        text, fault = "", "no transcript"
        if stem in texts:
            text, fault = read_text(Path(inside(root, texts[stem], root)))
        yield name, text, fault


def _paired(folder: Path, deep: int) -> bool:
    audio = [name for name in peek(folder) if is_audio(name)][:WIDE]
    if any((folder / name).with_suffix(".txt").is_file() for name in audio):
        return True
    return deep > 0 and any(_paired(below, deep - 1) for below in peek_folders(folder)[:WIDE])
