"""`python -m data split`: manifests of train, dev and test; the corpus itself stays as it is."""

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from data.atomic_files import write_json, write_jsonl
from data.commands.split_assign import SPLITS, Parts, SplitConfig, divide, part_sentences
from data.config import DataConfig
from data.corpora import read as read_corpus
from data.errors import InputError
from data.manifest import scan_cache
from data.pages.tables import Table
from data.paths import name_of, refuse_within
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
SUMMARY = "splits.json"  # written last: what was asked, and what came of it
FILES = (*(f"{split}.jsonl" for split in SPLITS), "drops.jsonl", SUMMARY)
ASKED = ("corpus", "source", "held_out", "by", "unit", "dev", "test", "seed", "shared_sentences")
# of a row, where they are set
FIELDS = ("seconds", "start", "end", "language", "speaker", "age", "gender", "accent")


Figures = dict[str, str | int | float]


class Found(NamedTuple):
    """The splits, and what is in none of them."""

    parts: Parts
    drops: list[Drop]
    seconds: dict[str, float]  # of each clip of the source that can be heard


def split_corpus(config: SplitConfig) -> Path:
    """Write train.jsonl, dev.jsonl and test.jsonl; return their folder.

    The same corpus and seed give the same bytes.

    Raises:
        InputError: a split is missing or would be empty, audio does not lie in files below one
            folder, or the manifests exist.
    """
    folder = Path(config.out) if config.out else RUNS / "splits" / name_of(config.corpus)
    refuse_within(folder, (*config.corpus, *config.data.audio_root))
    found_there = [name for name in FILES if (folder / name).exists()]
    if found_there and not config.overwrite:
        raise InputError(
            f"{folder} holds {found_there[0]} already: name another folder with --out, or say "
            "--overwrite"
        )
    data = replace(config.data, corpus=config.corpus)
    found = _found(config, data, scan_cache(folder if config.out else RUNS, data))
    root = _root(data)
    rows = {split: [_row(u, root) for u in part] for split, part in found.parts.items()}
    for split, part in rows.items():
        write_jsonl(folder / f"{split}.jsonl", part)
    write_jsonl(folder / "drops.jsonl", map(asdict, found.drops))
    asked = {key: getattr(config, key) for key in ASKED}
    figures = {"splits": _kept(found.parts), "left_out": _left_out(found)}
    write_json(folder / SUMMARY, {**asked, "audio_root": str(root), **figures})
    console = Console(highlight=False)
    console.print(_kept_table(figures["splits"]).drawn())
    console.print(_left_out_table(figures["left_out"]).drawn())
    knobs = f"--data.corpus {folder} --data.audio_root {root}"
    console.print(f"to train: {knobs}", soft_wrap=True, markup=False)
    return folder


def _found(config: SplitConfig, data: DataConfig, cache: Path) -> Found:
    source, drops = _read(data, config.source, cache)
    seconds = {u.id: u.seconds for u in source}
    if config.held_out:
        (dev, _), (test, _) = held = [_read(data, split, cache) for split in config.held_out]
        train, leaks = screen_leaks(source, config.source, dev + test)
        parts = {"test": test, "dev": dev, "train": train}
        drops = [*(gone for _, each in held for gone in each), *drops, *leaks]
    else:
        parts = divide(source, config)
    if not config.shared_sentences:
        parts, shared = part_sentences(parts, held_out=bool(config.held_out))
        drops += shared
    for split, part in parts.items():
        if not part:
            raise InputError(
                f"{', '.join(data.corpus)}: nothing of {config.source!r} is left in {split} "
                "without what the other splits hold: take another --source or --seed, or say "
                "--shared_sentences where it is divided"
            )
    return Found(parts, drops, seconds)


def _read(data: DataConfig, split: str, cache: Path) -> Screened:
    """Read a split, with lengths: what cannot be heard is dropped."""
    rows, faults = screen_faults(list(read_corpus(data, split)), split)
    rows, repeats = screen_repeats(rows, split)
    kept, broken = screen_audio(rows, split, scan(rows, data, cache, show=True))
    refuse_missing(broken, data)
    if not kept:
        raise InputError(f"{', '.join(data.corpus)}: split {split!r} has no clip that can be heard")
    return kept, faults + repeats + broken


def _root(data: DataConfig) -> Path:
    """Return the folder that holds all audio: the corpus, or what several have in common."""
    folders = [str(Path(source.audio_root or source.name).absolute()) for source in data.sources]
    files = [os.path.dirname(f) if os.path.isfile(f) else f for f in folders]
    root = Path(os.path.commonpath(files))
    if root == Path(root.anchor):
        raise InputError(
            f"{', '.join(data.corpus)} have no folder in common that manifests could stay in: "
            "divide one after the other"
        )
    return root


def _row(u: Utterance, root: Path) -> dict[str, Any]:
    """Return a row of a manifest, whose path is relative to a folder."""
    inside = os.path.join(root, "")
    if not u.audio.startswith(inside):
        raise InputError(
            f"{u.audio} is no file in {root}: a manifest names files; the rows of datasets and the "
            "members of archives must be saved as files first"
        )
    row = {"id": u.id, "path": u.audio.removeprefix(inside), "text": u.text}
    return row | {key: value for key in FIELDS if (value := getattr(u, key))}


def _kept(parts: Parts) -> list[Figures]:
    heard = {u.speaker for u in parts["train"] if u.speaker}
    rows = []
    for split, part in parts.items():
        speakers = {u.speaker for u in part if u.speaker}
        row: Figures = {
            "split": split,
            "clips": len(part),
            "hours": _hours(u.seconds for u in part),
        }
        row |= {"sentences": len({u.text for u in part}), "speakers": len(speakers)}
        rows.append({**row, "of_train": 0 if split == "train" else len(speakers & heard)})
    return rows


def _left_out(found: Found) -> list[Figures]:
    lengths: dict[tuple[str, str], list[float]] = defaultdict(list)
    for gone in found.drops:
        lengths[gone.split, gone.reason].append(found.seconds.get(gone.id, 0.0))
    return [
        {"split": split, "reason": reason, "clips": len(seconds), "hours": _hours(seconds)}
        for (split, reason), seconds in lengths.items()
    ]


def _hours(seconds: Iterable[float]) -> float:
    return round(sum(seconds) / 3600, 4)


def _kept_table(rows: list[Figures]) -> Table:
    names = ("split", "clips", "hours", "sentences", "speakers", "of them in train")
    return Table("kept", names, [tuple(map(str, row.values())) for row in rows])


def _left_out_table(rows: list[Figures]) -> Table:
    note = "A plain sentence is one without case, punctuation and spaces. drops.jsonl names each."
    cells = [tuple(map(str, row.values())) for row in rows]
    return Table(
        "left out", ("split", "reason", "clips", "hours"), cells, note if rows else "Nothing is.", 2
    )
