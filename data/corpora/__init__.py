"""Read corpora as Utterances: one module per layout; read() chooses the module."""

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
    """The interface of a layout's module."""

    DESCRIPTION: str  # of the files that identify the layout, for messages

    def matches(self, path: Path) -> bool:
        """Return whether a folder or a file has this layout, judging by names alone."""

    def read(self, config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
        """Yield the utterances of a split. Their ids begin with the corpus's folder name."""


# in the order in which they are tried: more specific layouts come first; hub comes last, since it
# searches all folders below
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

    `train+dev` joins splits; `train-clean-100,train` names one split per corpus.

    Raises:
        InputError: a corpus or a split is missing, or its layout is unknown.
    """
    if not config.corpus:
        raise InputError(NO_CORPUS)
    sources = config.sources
    splits = split.split(",") if "," in split else [split] * len(sources)
    for source, prefix, own_split in zip(sources, _id_prefixes(config), splits, strict=True):
        for part in filter(None, own_split.split("+")):
            for u in layout_of(source).read(config, source.name, part):
                language = source.language or u.language
                u.id = prefix + u.id
                u.corpus, u.task = source.name, source.task
                # millions of rows share few values: one string object for each
                u.language = language and sys.intern(language)
                u.speaker = u.speaker and sys.intern(u.speaker)
                u.age = u.age and sys.intern(u.age)
                u.gender = u.gender and sys.intern(u.gender)
                u.accent = u.accent and sys.intern(u.accent)
                yield u


def _id_prefixes(config: DataConfig) -> list[str]:
    """Return a prefix for each corpus's ids: empty, unless folders have the same name.

    Releases of Common Voice get no prefix: their clips have the same names, by which duplicates are
    found.
    """
    seen: Counter[str] = Counter()
    prefixes = []
    for source in config.sources:
        name = Path(source.name).name
        seen[name] += 1
        is_unique = seen[name] == 1 or layout_of(source) is common_voice
        prefixes.append("" if is_unique else f"{seen[name]}:")
    return prefixes


def layout_of(source: Source) -> Layout:
    """Return the layout given by data.layout, or the first one that matches the corpus.

    Raises:
        InputError: the corpus does not exist, or no layout matches.
    """
    if source.layout != "auto":
        return LAYOUTS[source.layout]
    path = Path(source.name)
    if not path.exists():
        if path.is_absolute() or source.name[0] in ".~" or not HUB_NAME.fullmatch(source.name):
            raise InputError(
                f"{source.name}: no such folder or file; set data.corpus to the corpus's path"
            )
        return hub
    for layout in LAYOUTS.values():
        if layout.matches(path):
            return layout
    descriptions = "; ".join(f"{layout.DESCRIPTION} ({name})" for name, layout in LAYOUTS.items())
    raise InputError(
        f"{path}: no known corpus layout: found {_contents(path)}; looked for {descriptions}. "
        "If it is one of these, set data.layout"
    )


def _contents(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else [path.name]
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "") if names else "nothing"
