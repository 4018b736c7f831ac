"""One file per corpus layout, each yielding Utterances; read() picks the file."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from data.config import DataConfig
from data.corpora import common_voice, hub, manifest
from data.errors import InputError
from data.utterance import Utterance

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")  # as in mozilla-foundation/common_voice_17_0


def read(config: DataConfig, split: str) -> Iterator[Utterance]:
    """Yield the utterances of a split over all corpora; `train+dev` joins splits.

    Raises:
        InputError: a corpus or a split is missing, or its layout is not known.
    """
    if not config.corpus:
        raise InputError("data.corpus is empty: name a folder, a manifest or a dataset of the Hub")
    for corpus in config.corpus:
        for part in split.split("+"):
            for utterance in _read_part(config, corpus, part):
                yield replace(utterance, corpus=corpus)


def _read_part(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    match config.layout if config.layout != "auto" else _guess(corpus):
        case "common_voice":
            return common_voice.read(Path(corpus), split)
        case "manifest":
            return manifest.read(Path(corpus), split)
        case _:
            return hub.read(config, corpus, split)


def _guess(corpus: str) -> str:
    """Tell the layout by what lies there."""
    path = Path(corpus)
    if path.is_dir():
        if any(path.glob("*.tsv")):
            return "common_voice"
        if any(path.glob("*.jsonl")) or any(path.glob("*.csv")):
            return "manifest"
        if (path / "clips").is_dir():
            return "common_voice"
        if hub.is_local(path):
            return "hub"
        raise InputError(
            f"{path}: no known corpus layout: looked for clips/ and *.tsv (Common Voice), *.jsonl "
            f"or *.csv (manifest), dataset_dict.json, dataset_info.json or *.parquet (datasets); "
            f"found {_contents(path)}"
        )
    if path.is_file():
        return "manifest"
    if path.is_absolute() or corpus.startswith((".", "~")) or not HUB_NAME.fullmatch(corpus):
        raise InputError(
            f"{corpus}: no such folder or file; set data.corpus to where the corpus lies"
        )
    return "hub"


def _contents(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir())
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "") if names else "nothing"
