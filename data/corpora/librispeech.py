"""LibriSpeech, and what lies as it does: SPLIT/SPEAKER/CHAPTER/ with one list of texts a chapter.

LibriSpeech/train-clean-100/19/198/19-198-0000.flac and 19-198.trans.txt; https://www.openslr.org/12/
"""

import re
from collections.abc import Iterator
from pathlib import Path

from data.config import DataConfig
from data.corpora.folders import is_audio, peek, split_folder, walk
from data.corpora.text_rules import Rule, apply
from data.corpora.text_tables import read_pairs
from data.paths import inside
from data.utterance import Utterance

LOOKS = "LibriSpeech/ or train-clean-100/, dev-other/ …"
SPLIT = re.compile(r"(train|dev|test)-(clean|other)(-\d+)?")  # dev-clean-2 is of Mini LibriSpeech
RULES = (Rule("upper case to lower case", lambda t: t.lower() if t.isupper() else t),)


def matches(path: Path) -> bool:
    """Tell whether a folder, or LibriSpeech in it, holds splits that are named as its are."""
    return any(SPLIT.fullmatch(name) for name in peek(_root(path)))


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield what the .trans.txt files of a split list; audio that they do not list has a fault.

    Raises:
        InputError: the split is missing, or a list is not in UTF-8 or lists something twice.
    """
    root = _root(Path(corpus))
    for folder, names in walk(split_folder(root, split)):
        texts: dict[str, str] = {}
        for name in names:
            if name.endswith(".trans.txt"):
                texts |= read_pairs(folder / name)
        files = {Path(name).stem: name for name in names if is_audio(name)}
        for name in sorted(texts.keys() | files.keys()):
            text, rules = apply(texts.get(name, ""), RULES)
            place = folder / files.get(name, f"{name}.flac")
            yield Utterance(
                id=f"{root.name}/{name}",
                audio=inside(root, str(place.relative_to(root)), folder),
                text=text,
                language="en",
                speaker=name.split("-")[0],
                rules=rules,
                fault="" if name in texts else "no transcript",
            )


def _root(path: Path) -> Path:
    return path / "LibriSpeech" if (path / "LibriSpeech").is_dir() else path
