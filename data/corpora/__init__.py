"""One file per corpus layout, each yielding Utterances; read() picks the file."""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from data.config import DataConfig, Source
from data.corpora import (
    aishell,
    audiofolder,
    common_voice,
    fleurs,
    folder,
    kaldi,
    ksponspeech,
    librispeech,
    subtitles,
    webdataset,
)
from data.corpora import hf_datasets as hub
from data.corpora import table as manifest
from data.errors import InputError
from data.utterance import Utterance

NO_CORPUS = "data.corpus is empty: name a folder, a manifest or a dataset of the Hub"
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")  # as in mozilla-foundation/common_voice_17_0


class Layout(Protocol):
    """What the file of a layout has."""

    LOOKS: str  # what it is known by, in words

    def matches(self, path: Path) -> bool:
        """Tell whether a folder or a file lies in this layout, by names alone."""

    def read(self, config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
        """Yield the utterances of a split. Their ids begin with the corpus's name."""


# in the order in which they are tried: what is known by more comes before what is known by less;
# hub comes last, since it looks for its files in all folders below
LAYOUTS: dict[str, Layout] = {
    "ksponspeech": ksponspeech,
    "aishell": aishell,
    "librispeech": librispeech,
    "fleurs": fleurs,
    "kaldi": kaldi,
    "common_voice": common_voice,
    "audiofolder": audiofolder,
    "manifest": manifest,
    "webdataset": webdataset,
    "folder": folder,
    "subtitles": subtitles,
    "hub": hub,
}


def read(config: DataConfig, split: str) -> Iterator[Utterance]:
    """Yield the utterances of a split over all corpora.

    `train+dev` joins splits; `train-clean-100,train` names another in each corpus.

    Raises:
        InputError: a corpus or a split is missing, or its layout is not known.
    """
    if not config.corpus:
        raise InputError(NO_CORPUS)
    sources = config.sources
    splits = split.split(",") if "," in split else [split] * len(sources)
    for source, place, mine in zip(sources, _places(config), splits, strict=True):
        for part in filter(None, mine.split("+")):
            for u in layout_of(source).read(config, source.name, part):
                language = source.language or u.language
                u.id = place + u.id
                u.corpus, u.task = source.name, source.task
                # of millions of rows, few have names of their own here: one string for each
                u.language = language and sys.intern(language)
                u.speaker = u.speaker and sys.intern(u.speaker)
                u.age = u.age and sys.intern(u.age)
                u.gender = u.gender and sys.intern(u.gender)
                u.accent = u.accent and sys.intern(u.accent)
                yield u


def _places(config: DataConfig) -> list[str]:
    """Return what ids of each corpus begin with: nothing, unless folders have the same name.

    Common Voice's clips have one name in all releases: the same clip is found to be listed twice.
    """
    seen: Counter[str] = Counter()
    places = []
    for source in config.sources:
        name = Path(source.name).name
        seen[name] += 1
        alone = seen[name] == 1 or layout_of(source) is common_voice
        places.append("" if alone else f"{seen[name]}:")
    return places


def layout_of(source: Source) -> Layout:
    """Return the layout that was named, or the one that what lies there looks like.

    Raises:
        InputError: nothing lies there, or it looks like none.
    """
    if source.layout != "auto":
        return LAYOUTS[source.layout]
    path = Path(source.name)
    if not path.exists():
        if path.is_absolute() or source.name[0] in ".~" or not HUB_NAME.fullmatch(source.name):
            raise InputError(
                f"{source.name}: no such folder or file; set data.corpus to where the corpus lies"
            )
        return hub
    for layout in LAYOUTS.values():
        if layout.matches(path):
            return layout
    looks = "; ".join(f"{layout.LOOKS} ({name})" for name, layout in LAYOUTS.items())
    raise InputError(
        f"{path}: no known corpus layout: found {_contents(path)}; looked for {looks}. "
        "If it is one of these, name it with data.layout"
    )


def _contents(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else [path.name]
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "") if names else "nothing"
