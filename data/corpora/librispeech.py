"""LibriSpeech and corpora like it: SPLIT/SPEAKER/CHAPTER/ with one .trans.txt per chapter.

LibriSpeech/train-clean-100/19/198/19-198-0000.flac and 19-198.trans.txt; https://www.openslr.org/12/
"""

import re
from collections.abc import Iterator
from pathlib import Path

from data.config import DataConfig
from data.corpora.find_files import is_audio, peek, split_folder, walk
from data.corpora.text_tables import read_pairs
from data.corpora.transcript_rules import Rule, apply
from data.paths import resolve_inside
from data.utterance import Utterance

DESCRIPTION = "LibriSpeech/ or train-clean-100/, dev-other/ …"
SPLIT = re.compile(r"(train|dev|test)-(clean|other)(-\d+)?")  # dev-clean-2: Mini LibriSpeech
RULES = (Rule("upper case to lower case", lambda t: t.lower() if t.isupper() else t),)


def matches(path: Path) -> bool:
    """Return whether a folder, or LibriSpeech in it, has splits with LibriSpeech's names."""
    return any(SPLIT.fullmatch(name) for name in peek(_root(path)))


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the clips listed in a split's .trans.txt files; audio not listed gets a fault.

    Raises:
        InputError: the split is missing, or a list is not in UTF-8 or has duplicates.
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
                audio=resolve_inside(root, str(place.relative_to(root)), folder),
                text=text,
                language="en",
                speaker=name.split("-")[0],
                rules=rules,
                fault="" if name in texts else "no transcript",
            )


def _root(path: Path) -> Path:
    return path / "LibriSpeech" if (path / "LibriSpeech").is_dir() else path
