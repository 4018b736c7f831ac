"""Manifest: the screened corpus, frozen into the run's folder at its first start."""

import gc
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from data.atomic_files import TO_JSON, write_bytes
from data.audio.open_audio import revision_of
from data.config import DataConfig
from data.corpora import read as read_corpus
from data.corpora.common_voice import cache_durations
from data.errors import InputError
from data.labels import LabelEncoder
from data.lazy_manifest import ManifestColumns, map_file, parse_row_at
from data.manifest_index import (
    IndexBuilder,
    build_index,
    index_is_sound,
    index_path,
    read_index,
    write_index,
)
from data.screening.durations import MeasureFiles, measure_locally, scan
from data.screening.filters import (
    Screened,
    refuse_missing,
    screen_audio,
    screen_faults,
    screen_repeats,
)
from data.screening.training_set import (
    count_tokens,
    refuse_empty,
    screen_training_split,
    with_model_language,
)
from data.streaming.prefetch_windows import first_window
from data.utterance import Drop, Utterance


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The utterances of a run: train, dev (selects the best model) and test (reported)."""

    train: Sequence[Utterance]
    dev: Sequence[Utterance] = field(default_factory=list)
    test: Sequence[Utterance] = field(default_factory=list)

    def write(self, path: Path) -> "Manifest":
        """Write one utterance per line, and the index; return what read() would return."""
        builder = IndexBuilder()
        write_bytes(path, self._lines(builder))
        index = builder.index()
        write_index(path, index)
        return replace(self, train=index.train(path))

    def _lines(self, builder: IndexBuilder) -> Iterator[bytes]:
        """Yield the lines, and add them to the index, which spares parsing them again."""
        for split, part in (("train", self.train), ("dev", self.dev), ("test", self.test)):
            for u in part:
                row = u.to_json()
                line = (TO_JSON({"split": split, **row}) + "\n").encode()
                builder.add(row, split, len(line))
                yield line

    def revisions(self) -> dict[str, str]:
        """Return the commit of each corpus that was loaded from the Hub."""
        examples = {u.corpus: u.audio for u in (*self.test, *self.dev)}
        columns = ManifestColumns.from_utterances(self.train)
        for corpus in columns.corpora().keys() - examples.keys():
            examples[corpus] = self.train[int(columns.indices_of_corpus(corpus)[0])].audio
        commits = {name: revision_of(audio) for name, audio in examples.items()}
        return {name: commit for name, commit in commits.items() if commit}

    def fingerprint(self) -> str:
        """Return a hash of the training split: ids, durations, texts."""
        return ManifestColumns.from_utterances(self.train).fingerprint

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read what write() wrote; the training split is parsed on access."""
        index = read_index(path) or build_index(path)
        lines = map_file(path)
        held_out = {
            split: [parse_row_at(lines, offset) for offset in index.offsets[split].tolist()]
            for split in ("dev", "test")
        }
        return cls(train=index.train(path), **held_out)


def ensure_index(path: Path) -> bool:
    """Write the index of a manifest if it is missing or damaged; return whether a manifest exists.

    One process calls it before all of them read the manifest. If the manifest itself has changed,
    the new index has another fingerprint, which resuming refuses.
    """
    exists = path.exists()
    if exists and not index_is_sound(path):
        index_path(path).unlink(missing_ok=True)  # readers do not verify its checksum
        try:
            write_index(path, build_index(path))
        except OSError as error:
            print(
                f"WARNING: {index_path(path)} could not be written ({error}): each process parses "
                "the manifest itself"
            )
    return exists


def build_manifest(
    config: DataConfig,
    labels: LabelEncoder,
    cache: Path,
    *,
    show: bool,
    seed: int = 0,
    measure_files: MeasureFiles = measure_locally,
) -> tuple[Manifest, list[Drop]]:
    """Read, measure and screen the splits of a run; for a stream, its first window.

    Args:
        config: corpora and splits.
        labels: counts tokens, checks languages.
        cache: file that keeps measured durations between runs.
        show: whether to show a progress bar.
        seed: of a stream's order.
        measure_files: measures files that are not in the cache. A stream's window is always
            measured by this process.

    Raises:
        InputError: a split is missing or empty, clips are missing, or the model does not support
            a language.
    """
    with gc_disabled(), cache_durations():
        return _build(config, labels, cache, show=show, seed=seed, measure_files=measure_files)


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Disable cyclic garbage collection, which takes 10 % of the time to read two million rows."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _build(
    config: DataConfig,
    labels: LabelEncoder,
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
            held_out[name], dropped = read_held_out(
                config, labels, cache, split=split, show=show, measure_files=measure_files
            )
            drops += dropped
    dev_and_test = held_out["dev"] + held_out["test"]
    split = config.train_split
    if config.streaming:
        folder = cache.parent
        train, dropped = first_window(config, labels, dev_and_test, folder, seed=seed, show=show)
    else:
        measure = partial(scan, config=config, cache=cache, show=show, measure_files=measure_files)
        rows = _read(config, labels, split)
        train, dropped = screen_training_split(rows, config, labels, dev_and_test, measure)
    refuse_empty(train, split, dropped, config)
    return Manifest(train=train, **held_out), drops + dropped


def read_held_out(
    config: DataConfig,
    labels: LabelEncoder,
    cache: Path,
    *,
    split: str,
    show: bool,
    measure_files: MeasureFiles = measure_locally,
) -> Screened:
    """Read a split for evaluation: only clips without usable audio are dropped.

    Raises:
        InputError: as build_manifest().
    """
    rows, faults = screen_faults(_read(config, labels, split), split)
    rows, repeats = screen_repeats(rows, split)
    measurements = scan(rows, config, cache, show=show, measure_files=measure_files)
    kept, broken = screen_audio(rows, split, measurements)
    refuse_missing(broken, config)
    dropped = faults + repeats + broken
    refuse_empty(kept, split, dropped, config)
    return kept, dropped


def _read(config: DataConfig, labels: LabelEncoder, split: str) -> list[Utterance]:
    """Read a split, check its languages and count its tokens."""
    rows = read_corpus(with_model_language(config, labels), split)
    utterances = count_tokens(rows, config, labels, split)
    if not utterances:
        raise InputError(f"{', '.join(config.corpus)}: split {split!r} is empty")
    return utterances


def scan_cache_path(runs: Path, config: DataConfig) -> Path:
    """Return the file next to the runs that caches the scan of these corpora."""
    name = hashlib.sha256("\n".join(config.corpus).encode()).hexdigest()[:12]
    return runs / ".scan" / f"{name}.jsonl"
