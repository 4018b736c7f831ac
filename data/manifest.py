"""The screened corpus, frozen into the run's folder at its first start: it defines the plan."""

import gc
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from data.config import DataConfig
from data.context import add_prompts
from data.corpora import read as read_corpus
from data.corpora.common_voice import holds_speakers_of_all
from data.errors import InputError
from data.files import write_jsonl
from data.labels import LabelEncoder
from data.lazy import LazyUtterances, Outline, read_row
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
from data.source import revision_of
from data.utterance import Drop, Utterance


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
    with _unswept():
        return _build(config, encoder, cache, show=show)


@contextmanager
def _unswept() -> Iterator[None]:
    """Look for no cycles of garbage: among two million new rows that takes a tenth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _build(
    config: DataConfig, encoder: LabelEncoder, cache: Path, *, show: bool
) -> tuple[Manifest, list[Drop]]:
    held_out: dict[str, list[Utterance]] = {"dev": [], "test": []}
    drops: list[Drop] = []
    for name, split in (("dev", config.dev_split), ("test", config.test_split)):
        if split is not None:
            held_out[name], gone = read_held_out(config, encoder, cache, split=split, show=show)
            drops += gone
    split = config.train_split
    train, faults = screen_faults(_read(config, encoder, split), split)
    train, repeats = screen_repeats(train, split)
    strict = holds_speakers_of_all(split)
    train, leaks = screen_leaks(train, split, held_out["dev"] + held_out["test"], strict=strict)
    train, broken = screen_audio(train, split, scan(train, config, cache, show=show))
    refuse_missing(broken, config)
    train, unfit = screen_training(_with_tokens(train, encoder), split, config, encoder.max_tokens)
    if config.timestamps and not encoder.knows_times:
        raise InputError(
            f"data.timestamps is {config.timestamps:g}, but the model's vocabulary has no times: "
            "take one of OpenAI's, or set it to 0"
        )
    add_prompts(train, encoder)
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
    if not encoder.multilingual and not config.language:  # it knows no other
        config = replace(config, language=("en",))
    rows = list(read_corpus(config, split))
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


def _with_tokens(rows: list[Utterance], encoder: LabelEncoder) -> list[Utterance]:
    """Fill in the number of tokens, in place: a second list of millions may be one too many."""
    counts = encoder.count([u.text for u in rows], [u.language or "" for u in rows])
    for index, tokens in enumerate(counts):
        rows[index] = replace(rows[index], tokens=tokens)
    return rows


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
