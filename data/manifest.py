"""The screened corpus, frozen into the run's folder at its first start: it defines the plan."""

import gc
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from data.atomic_files import TO_JSON, write_bytes
from data.audio.source import revision_of
from data.config import DataConfig
from data.corpora import read as read_corpus
from data.corpora.common_voice import read_once
from data.errors import InputError
from data.labels import LabelEncoder
from data.lazy_manifest import ManifestColumns, mapped, read_row_at
from data.manifest_index import (
    IndexBuilder,
    build_index,
    index_is_sound,
    index_path,
    read_index,
    write_index,
)
from data.screening.durations import MeasureFiles, measure_here, scan
from data.screening.filters import (
    Screened,
    refuse_missing,
    screen_audio,
    screen_faults,
    screen_repeats,
)
from data.screening.training_set import refuse_empty, select, settle, spoken
from data.streaming.windows import first_window
from data.utterance import Drop, Utterance


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a run trains on, chooses by and reports on."""

    train: Sequence[Utterance]
    dev: Sequence[Utterance] = field(default_factory=list)
    test: Sequence[Utterance] = field(default_factory=list)

    def write(self, path: Path) -> "Manifest":
        """Write one utterance a line, with its split, and the index; return what read() would."""
        builder = IndexBuilder()
        write_bytes(path, self._lines(builder))
        index = builder.index()
        write_index(path, index)
        return replace(self, train=index.train(path))

    def _lines(self, builder: IndexBuilder) -> Iterator[bytes]:
        """Yield the lines, and note where they are: to read millions again takes a while."""
        for split, part in (("train", self.train), ("dev", self.dev), ("test", self.test)):
            for u in part:
                row = u.to_json()
                line = (TO_JSON({"split": split, **row}) + "\n").encode()
                builder.add(row, split, len(line))
                yield line

    def revisions(self) -> dict[str, str]:
        """Return the commit that each corpus from the Hub was loaded at."""
        found = {u.corpus: u.audio for u in (*self.test, *self.dev)}
        outline = ManifestColumns.of(self.train)
        for corpus in outline.corpora().keys() - found.keys():
            found[corpus] = self.train[int(outline.of_corpus(corpus)[0])].audio
        commits = {name: revision_of(audio) for name, audio in found.items()}
        return {name: commit for name, commit in commits.items() if commit}

    def fingerprint(self) -> str:
        """Return a hash of what is trained on: ids, lengths, texts."""
        return ManifestColumns.of(self.train).fingerprint

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read back what write() wrote; what is trained on stays in the file."""
        index = read_index(path) or build_index(path)
        lines = mapped(path)
        held_out = {
            split: [read_row_at(lines, offset) for offset in index.offsets[split].tolist()]
            for split in ("dev", "test")
        }
        return cls(train=index.train(path), **held_out)


def ensure_index(path: Path) -> bool:
    """Write the index of a manifest where it is missing or damaged; return whether there is one.

    One process calls it before all of them read the manifest. Where a byte of the manifest has
    changed, the new index has another fingerprint, which a resume refuses.
    """
    found = path.exists()
    if found and not index_is_sound(path):
        index_path(path).unlink(missing_ok=True)  # readers would not see that it is damaged
        try:
            write_index(path, build_index(path))
        except OSError as error:
            print(
                f"WARNING: {index_path(path)} could not be written ({error}): each process reads "
                "the manifest by itself"
            )
    return found


def build_manifest(
    config: DataConfig,
    encoder: LabelEncoder,
    cache: Path,
    *,
    show: bool,
    seed: int = 0,
    measure_files: MeasureFiles = measure_here,
) -> tuple[Manifest, list[Drop]]:
    """Read, measure and screen the splits of a run; of a stream, its first window.

    Args:
        config: which corpora and splits.
        encoder: counts tokens, knows the languages.
        cache: where lengths are remembered between runs.
        show: whether to draw a progress bar.
        seed: of the order of a stream.
        measure_files: measures what is not in the cache; a stream's window is measured here.

    Raises:
        InputError: a split is missing or empty, clips are missing, a language is unknown.
    """
    with gc_disabled(), read_once():
        return _build(config, encoder, cache, show=show, seed=seed, measure_files=measure_files)


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Look for no cycles of garbage: among two million new rows that takes a tenth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _build(
    config: DataConfig,
    encoder: LabelEncoder,
    cache: Path,
    *,
    show: bool,
    seed: int,
    measure_files: MeasureFiles,
) -> tuple[Manifest, list[Drop]]:
    held_out: dict[str, list[Utterance]] = {"dev": [], "test": []}
    drops: list[Drop] = []
    for name, split in (("dev", config.dev_split), ("test", config.test_split)):
        if split is not None:
            held_out[name], gone = read_held_out(
                config, encoder, cache, split=split, show=show, measure_files=measure_files
            )
            drops += gone
    held = held_out["dev"] + held_out["test"]
    split = config.train_split
    if config.streaming:
        train, gone = first_window(config, encoder, held, cache.parent, seed=seed, show=show)
    else:
        measure = partial(scan, config=config, cache=cache, show=show, measure_files=measure_files)
        train, gone = select(_read(config, encoder, split), config, encoder, held, measure)
    refuse_empty(train, split, gone, config)
    return Manifest(train=train, **held_out), drops + gone


def read_held_out(
    config: DataConfig,
    encoder: LabelEncoder,
    cache: Path,
    *,
    split: str,
    show: bool,
    measure_files: MeasureFiles = measure_here,
) -> Screened:
    """Read a split for scoring: only what cannot be heard is dropped.

    Raises:
        InputError: as build_manifest().
    """
    rows, faults = screen_faults(_read(config, encoder, split), split)
    rows, repeats = screen_repeats(rows, split)
    found = scan(rows, config, cache, show=show, measure_files=measure_files)
    kept, broken = screen_audio(rows, split, found)
    refuse_missing(broken, config)
    gone = faults + repeats + broken
    refuse_empty(kept, split, gone, config)
    return kept, gone


def _read(config: DataConfig, encoder: LabelEncoder, split: str) -> list[Utterance]:
    """Read a split and settle every utterance's language and tokens."""
    rows = settle(read_corpus(spoken(config, encoder), split), config, encoder, split)
    if not rows:
        raise InputError(f"{', '.join(config.corpus)}: split {split!r} is empty")
    return rows


def scan_cache(runs: Path, config: DataConfig) -> Path:
    """Return the file, beside the runs, that remembers what was found in these corpora."""
    name = hashlib.sha256("\n".join(config.corpus).encode()).hexdigest()[:12]
    return runs / ".scan" / f"{name}.jsonl"
