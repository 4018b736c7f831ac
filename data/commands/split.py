"""`python -m data split`: write manifests of train, dev and test, without changing the corpus."""

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from data.atomic_files import write_json, write_jsonl
from data.commands.split_assign import SPLITS, Parts, SplitConfig, divide, separate_sentences
from data.config import DataConfig
from data.corpora import read as read_corpus
from data.errors import InputError
from data.manifest import scan_cache_path
from data.pages.tables import Table
from data.paths import folder_name, refuse_within
from data.screening.durations import scan
from data.screening.filters import (
    Screened,
    refuse_missing,
    screen_audio,
    screen_faults,
    screen_leaks,
    screen_repeats,
)
from data.utterance import Drop, Utterance

RUNS = Path("runs")
SUMMARY = "splits.json"  # written last: options and results
FILES = (*(f"{split}.jsonl" for split in SPLITS), "drops.jsonl", SUMMARY)
RECORDED_OPTIONS = (
    "corpus",
    "source",
    "held_out",
    "by",
    "unit",
    "dev",
    "test",
    "seed",
    "shared_sentences",
)
# of a row, if they are set
FIELDS = ("seconds", "start", "end", "language", "speaker", "age", "gender", "accent")


Figures = dict[str, str | int | float]


class SplitResult(NamedTuple):
    """The splits, and the dropped clips."""

    parts: Parts
    drops: list[Drop]
    seconds: dict[str, float]  # by id, of each usable clip of the source


def split_corpus(config: SplitConfig) -> Path:
    """Write train.jsonl, dev.jsonl and test.jsonl; return their folder.

    The same corpus and seed give the same bytes.

    Raises:
        InputError: a split is missing or would be empty, audio is not in files below one folder, or
            the manifests exist.
    """
    folder = Path(config.out) if config.out else RUNS / "splits" / folder_name(config.corpus)
    refuse_within(folder, (*config.corpus, *config.data.audio_root))
    existing = [name for name in FILES if (folder / name).exists()]
    if existing and not config.overwrite:
        raise InputError(
            f"{folder} has {existing[0]} already: name another folder with --out, or use "
            "--overwrite"
        )
    data = replace(config.data, corpus=config.corpus)
    result = _make_splits(config, data, scan_cache_path(folder if config.out else RUNS, data))
    root = _root(data)
    rows = {split: [_row(u, root) for u in part] for split, part in result.parts.items()}
    for split, part in rows.items():
        write_jsonl(folder / f"{split}.jsonl", part)
    write_jsonl(folder / "drops.jsonl", map(asdict, result.drops))
    options = {key: getattr(config, key) for key in RECORDED_OPTIONS}
    figures = {"splits": _split_figures(result.parts), "left_out": _drop_figures(result)}
    write_json(folder / SUMMARY, {**options, "audio_root": str(root), **figures})
    console = Console(highlight=False)
    console.print(_split_table(figures["splits"]).to_rich())
    console.print(_drop_table(figures["left_out"]).to_rich())
    knobs = f"--data.corpus {folder} --data.audio_root {root}"
    console.print(f"to train: {knobs}", soft_wrap=True, markup=False)
    return folder


def _make_splits(config: SplitConfig, data: DataConfig, cache: Path) -> SplitResult:
    source, drops = _read(data, config.source, cache)
    seconds = {u.id: u.seconds for u in source}
    if config.held_out:
        (dev, _), (test, _) = screened = [_read(data, split, cache) for split in config.held_out]
        train, leaks = screen_leaks(source, config.source, dev + test)
        parts = {"test": test, "dev": dev, "train": train}
        drops = [*(dropped for _, part in screened for dropped in part), *drops, *leaks]
    else:
        parts = divide(source, config)
    if not config.shared_sentences:
        parts, shared = separate_sentences(parts, held_out=bool(config.held_out))
        drops += shared
    for split, part in parts.items():
        if not part:
            raise InputError(
                f"{', '.join(data.corpus)}: no clip of {config.source!r} is left in {split} "
                "without those of the other splits: use another --source or --seed, or "
                "--shared_sentences if the source is divided"
            )
    return SplitResult(parts, drops, seconds)


def _read(data: DataConfig, split: str, cache: Path) -> Screened:
    """Read a split with durations; drop clips without usable audio."""
    rows, faults = screen_faults(list(read_corpus(data, split)), split)
    rows, repeats = screen_repeats(rows, split)
    kept, broken = screen_audio(rows, split, scan(rows, data, cache, show=True))
    refuse_missing(broken, data)
    if not kept:
        raise InputError(f"{', '.join(data.corpus)}: split {split!r} has no clip with usable audio")
    return kept, faults + repeats + broken


def _root(data: DataConfig) -> Path:
    """Return the folder that contains all audio: the corpus, or the parent of several."""
    folders = [str(Path(source.audio_root or source.name).absolute()) for source in data.sources]
    files = [os.path.dirname(f) if os.path.isfile(f) else f for f in folders]
    root = Path(os.path.commonpath(files))
    if root == Path(root.anchor):
        raise InputError(
            f"{', '.join(data.corpus)} have no parent folder in common, which the manifests' paths "
            "need: split one after the other"
        )
    return root


def _row(u: Utterance, root: Path) -> dict[str, Any]:
    """Return a manifest's row, with a path relative to a folder."""
    inside = os.path.join(root, "")
    if not u.audio.startswith(inside):
        raise InputError(
            f"{u.audio} is not a file in {root}: manifests list files; save the rows of datasets "
            "and the members of archives as files first"
        )
    row = {"id": u.id, "path": u.audio.removeprefix(inside), "text": u.text}
    return row | {key: value for key in FIELDS if (value := getattr(u, key))}


def _split_figures(parts: Parts) -> list[Figures]:
    train_speakers = {u.speaker for u in parts["train"] if u.speaker}
    rows = []
    for split, part in parts.items():
        speakers = {u.speaker for u in part if u.speaker}
        row: Figures = {
            "split": split,
            "clips": len(part),
            "hours": _hours(u.seconds for u in part),
        }
        row |= {"sentences": len({u.text for u in part}), "speakers": len(speakers)}
        rows.append({**row, "of_train": 0 if split == "train" else len(speakers & train_speakers)})
    return rows


def _drop_figures(result: SplitResult) -> list[Figures]:
    lengths: dict[tuple[str, str], list[float]] = defaultdict(list)
    for dropped in result.drops:
        lengths[dropped.split, dropped.reason].append(result.seconds.get(dropped.id, 0.0))
    return [
        {"split": split, "reason": reason, "clips": len(seconds), "hours": _hours(seconds)}
        for (split, reason), seconds in lengths.items()
    ]


def _hours(seconds: Iterable[float]) -> float:
    return round(sum(seconds) / 3600, 4)


def _split_table(rows: list[Figures]) -> Table:
    names = ("split", "clips", "hours", "sentences", "speakers", "of them in train")
    return Table("kept", names, [tuple(map(str, row.values())) for row in rows])


def _drop_table(rows: list[Figures]) -> Table:
    note = "Plain sentences are without case, punctuation and spaces. drops.jsonl lists all."
    cells = [tuple(map(str, row.values())) for row in rows]
    return Table(
        "left out", ("split", "reason", "clips", "hours"), cells, note if rows else "None.", 2
    )
