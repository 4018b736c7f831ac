"""The screened corpus, frozen into the run's folder at its first start: it defines the plan."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data.config import DataConfig
from data.corpora import read as read_corpus
from data.errors import InputError
from data.files import read_jsonl, write_jsonl
from data.labels import LabelEncoder
from data.scan import scan
from data.screen import (
    Screened,
    count_reasons,
    refuse_missing,
    screen_audio,
    screen_faults,
    screen_leaks,
    screen_repeats,
    screen_training,
)
from data.utterance import Drop, Utterance

# splits of Common Voice that hold sentences and speakers of dev and test; train does not, by design
MIXED = {"validated", "other", "invalidated"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a run trains on, chooses by and reports on."""

    train: list[Utterance]
    dev: list[Utterance] = field(default_factory=list)
    test: list[Utterance] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write one utterance a line, with its split."""
        splits = (("train", self.train), ("dev", self.dev), ("test", self.test))
        write_jsonl(path, ({"split": name, **u.to_json()} for name, part in splits for u in part))

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read back what write() wrote."""
        splits: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
        for row in read_jsonl(path):
            rules = tuple(row.pop("rules", ()))
            splits[row.pop("split")].append(Utterance(**{"text": "", **row}, rules=rules))
        return cls(**splits)

    def fingerprint(self) -> str:
        """Return a hash of what is trained on: ids, lengths, texts."""
        digest = hashlib.sha256()
        for u in self.train:
            digest.update(
                json.dumps([u.id, u.seconds, u.tokens, u.text, u.language, u.task]).encode()
            )
        return digest.hexdigest()[:16]


def build_manifest(
    config: DataConfig, encoder: LabelEncoder, cache: Path, *, show: bool
) -> tuple[Manifest, list[Drop]]:
    """Read, measure and screen the splits of a run.

    Args:
        config: which corpora and splits.
        encoder: counts tokens, knows the languages.
        cache: where lengths are remembered between runs.
        show: whether to draw a progress bar.

    Raises:
        InputError: a split is missing or empty, clips are missing, a language is unknown.
    """
    held_out: dict[str, list[Utterance]] = {"dev": [], "test": []}
    drops: list[Drop] = []
    for name, split in (("dev", config.dev_split), ("test", config.test_split)):
        if split is not None:
            held_out[name], gone = read_held_out(config, encoder, cache, split=split, show=show)
            drops += gone
    split = config.train_split
    train, faults = screen_faults(_read(config, encoder, split), split)
    train, repeats = screen_repeats(train, split)
    strict = not MIXED.isdisjoint(split.split("+"))
    train, leaks = screen_leaks(train, split, held_out["dev"] + held_out["test"], strict=strict)
    train, broken = screen_audio(train, split, scan(train, config, cache, show=show))
    refuse_missing(broken, config)
    train, unfit = screen_training(_with_tokens(train, encoder), split, config, encoder.max_tokens)
    gone = [*faults, *repeats, *leaks, *broken, *unfit]
    _refuse_empty(train, split, gone, config)
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
    _refuse_empty(kept, split, gone, config)
    return _with_tokens(kept, encoder), gone


def _read(config: DataConfig, encoder: LabelEncoder, split: str) -> list[Utterance]:
    """Read a split and settle every utterance's language."""
    rows = list(read_corpus(config, split))
    if not encoder.multilingual and not config.language:  # it knows no other
        rows = [replace(u, language="en") for u in rows]
    if not rows:
        raise InputError(f"{', '.join(config.corpus)}: split {split!r} is empty")
    for language in {u.language for u in rows}:
        if language is None:
            raise InputError(
                f"{', '.join(config.corpus)}: split {split!r} does not say its language: "
                "set data.language"
            )
        encoder.prefix(language)  # raises where the model does not know it
    return rows


def _with_tokens(rows: Sequence[Utterance], encoder: LabelEncoder) -> list[Utterance]:
    counts = encoder.count([u.text for u in rows], [u.language or "" for u in rows])
    return [replace(u, tokens=n) for u, n in zip(rows, counts, strict=True)]


def _refuse_empty(
    kept: Sequence[Utterance], split: str, drops: Sequence[Drop], config: DataConfig
) -> None:
    if not kept:
        reasons = count_reasons(drops).get(split, {})
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        raise InputError(
            f"{', '.join(config.corpus)}: split {split!r} has nothing left after: {told}"
        )


def scan_cache(runs: Path, config: DataConfig) -> Path:
    """Return the file, beside the runs, that remembers what was found in these corpora."""
    name = hashlib.sha256("\n".join(config.corpus).encode()).hexdigest()[:12]
    return runs / ".scan" / f"{name}.jsonl"
