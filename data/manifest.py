"""The screened corpus, frozen into the run's folder at its first start: it defines the plan."""

import gc
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from data.config import DataConfig
from data.corpora import read as read_corpus
from data.corpora.common_voice import read_once
from data.errors import InputError
from data.files import write_jsonl
from data.labels import LabelEncoder
from data.lazy import LazyUtterances, Outline, read_row
from data.scan import scan
from data.screen import Screened, refuse_missing, screen_audio, screen_faults, screen_repeats
from data.selection import refuse_empty, refuse_unknown, select, spoken, with_tokens
from data.source import revision_of
from data.utterance import Drop, Utterance
from data.windows import first_window


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a run trains on, chooses by and reports on."""

    train: Sequence[Utterance]
    dev: Sequence[Utterance] = field(default_factory=list)
    test: Sequence[Utterance] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write one utterance a line, with its split."""
        splits = (("train", self.train), ("dev", self.dev), ("test", self.test))
        write_jsonl(path, ({"split": name, **u.to_json()} for name, part in splits for u in part))

    def revisions(self) -> dict[str, str]:
        """Return the commit that each corpus from the Hub was loaded at."""
        found = {u.corpus: u.audio for u in (*self.test, *self.dev)}
        for index, (corpus, _, _) in enumerate(Outline.of(self.train).kinds):
            if corpus not in found:
                found[corpus] = self.train[index].audio
        commits = {name: revision_of(audio) for name, audio in found.items()}
        return {name: commit for name, commit in commits.items() if commit}

    def fingerprint(self) -> str:
        """Return a hash of what is trained on: ids, lengths, texts."""
        return Outline.of(self.train).fingerprint

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read back what write() wrote; what is trained on stays in the file."""
        train = LazyUtterances(path)
        held_out: dict[str, list[Utterance]] = {"dev": [], "test": []}
        with path.open("rb") as file:
            offset = 0
            for line in file:
                row = json.loads(line.decode())
                if row["split"] == "train":
                    train.add(offset, row)
                else:
                    held_out[row["split"]].append(read_row(row))
                offset += len(line)
        return cls(train=train, **held_out)


def build_manifest(
    config: DataConfig, encoder: LabelEncoder, cache: Path, *, show: bool, seed: int = 0
) -> tuple[Manifest, list[Drop]]:
    """Read, measure and screen the splits of a run; of a stream, its first window.

    Args:
        config: which corpora and splits.
        encoder: counts tokens, knows the languages.
        cache: where lengths are remembered between runs.
        show: whether to draw a progress bar.
        seed: of the order of a stream.

    Raises:
        InputError: a split is missing or empty, clips are missing, a language is unknown.
    """
    with _unswept(), read_once():
        return _build(config, encoder, cache, show=show, seed=seed)


@contextmanager
def _unswept() -> Iterator[None]:
    """Look for no cycles of garbage: among two million new rows that takes a tenth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _build(
    config: DataConfig, encoder: LabelEncoder, cache: Path, *, show: bool, seed: int
) -> tuple[Manifest, list[Drop]]:
    held_out: dict[str, list[Utterance]] = {"dev": [], "test": []}
    drops: list[Drop] = []
    for name, split in (("dev", config.dev_split), ("test", config.test_split)):
        if split is not None:
            held_out[name], gone = read_held_out(config, encoder, cache, split=split, show=show)
            drops += gone
    held = held_out["dev"] + held_out["test"]
    split = config.train_split
    if config.streaming:
        train, gone = first_window(config, encoder, held, cache.parent, seed=seed, show=show)
    else:
        measure = partial(scan, config=config, cache=cache, show=show)
        train, gone = select(_read(config, encoder, split), config, encoder, held, measure)
    refuse_empty(train, split, gone, config)
    return Manifest(train=train, **held_out), drops + gone


def read_held_out(
    config: DataConfig, encoder: LabelEncoder, cache: Path, *, split: str, show: bool
) -> Screened:
    """Read a split for scoring: only what cannot be heard is dropped.

    Raises:
        InputError: as build_manifest().
    """
    rows, faults = screen_faults(_read(config, encoder, split), split)
    rows, repeats = screen_repeats(rows, split)
    kept, broken = screen_audio(rows, split, scan(rows, config, cache, show=show))
    refuse_missing(broken, config)
    gone = faults + repeats + broken
    refuse_empty(kept, split, gone, config)
    return with_tokens(kept, encoder), gone


def _read(config: DataConfig, encoder: LabelEncoder, split: str) -> list[Utterance]:
    """Read a split and settle every utterance's language."""
    rows = list(read_corpus(spoken(config, encoder), split))
    if not rows:
        raise InputError(f"{', '.join(config.corpus)}: split {split!r} is empty")
    refuse_unknown(rows, config, encoder, split)
    return rows


def scan_cache(runs: Path, config: DataConfig) -> Path:
    """Return the file, beside the runs, that remembers what was found in these corpora."""
    name = hashlib.sha256("\n".join(config.corpus).encode()).hexdigest()[:12]
    return runs / ".scan" / f"{name}.jsonl"
