"""What millions of utterances cost: from start to the first plan, in workers, over many processes.

    python tests/benchmark/scale.py --model=tiny.en

Writes a folder in Common Voice's layout whose clips are links to a few real ones, and removes it
afterwards. docs/results.md has the figures.
"""

import hashlib
import os
import random
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))  # after this folder: its files

import numpy as np
import soundfile
from measure import HELD, screen
from rich.table import Table

from data.atomic_files import write_json
from data.batch import Position
from data.config import DataConfig
from data.config_parser import parse_dataclass
from data.dataloader import BatchPreparer, train_batches
from data.errors import plain_errors
from data.manifest import build_manifest
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.utterance import Utterance
from eval.whisper import load_whisper

LINKS = 50_000  # to one file: ext4 allows 65,000
SPEAKERS = 80_000
HELD_OUT = 16_000  # clips of dev, and of test
PASSES = (20, 400)  # after which the workers' memory is read
WORDS = ("the", "way", "people", "make", "old", "long", "work", "water", "around", "number")
HEADER = "client_id path sentence_id sentence up_votes down_votes age gender accents locale segment"


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Measure a corpus of many rows, and a plan for many processes."""

    model: str  # a folder, or a name on the Hub: counts tokens
    rows: int = 2_000_000  # of train.tsv
    utterances: int = 1_000_000  # planned over many processes
    processes: int = 64
    ranks: int = 64  # of them that are simulated: seconds each
    folder: str = "runs/scale"  # where the corpus is written
    out: str = "runs/scale.json"


def main() -> None:
    """Measure, write and show."""
    with plain_errors():
        command = parse_dataclass(Command, sys.argv[1:])
        folder = Path(command.folder)
        try:
            write_corpus(folder / "en", command.rows)
            told = {"corpus": apart(command), "plan": over_processes(command)}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        write_json(Path(command.out), told)
        screen().print(shown(told))


def write_corpus(folder: Path, rows: int) -> None:
    """Write rows of three to fifteen words, clips that are as long, and their lengths."""
    (folder / "clips").mkdir(parents=True)
    with (folder / "clip_durations.tsv").open("w") as durations:
        durations.write("clip\tduration[ms]\n")
        lines = _rows(folder, durations)
        for split, count in {"train": rows, "dev": HELD_OUT, "test": HELD_OUT}.items():
            with (folder / f"{split}.tsv").open("w") as table:
                table.write(HEADER.replace(" ", "\t") + "\n")
                table.writelines(islice(lines, count))


def _rows(folder: Path, durations: TextIO) -> Iterator[str]:
    """Yield rows for ever; each has a clip, and a line in the table of lengths."""
    rng = random.Random(0)
    speakers = [hashlib.sha512(str(n).encode()).hexdigest() for n in range(SPEAKERS)]
    lengths: dict[str, float] = {}
    for number in count():
        name = f"common_voice_en_{number:08d}.mp3"
        seconds = _link(folder, name, rng.randrange(3, 16), lengths)
        durations.write(f"{name}\t{round(1000 * seconds)}\n")
        text = " ".join(rng.choices(WORDS, k=round(seconds / 0.45))).capitalize()
        speaker = speakers[rng.randrange(SPEAKERS)]
        yield f"{speaker}\t{name}\t\t{text}.\t2\t0\t\t\t\ten\t\n"


def _link(folder: Path, name: str, words: int, made: dict[str, float]) -> float:
    """Link a clip of so many words, made where the last one has all its links; return seconds."""
    serial = sum(key.startswith(f"{words}-") for key in made)
    source = folder / f"{words}-{max(0, serial - 1)}"
    if serial == 0 or source.stat().st_nlink > LINKS:
        source, seconds = folder / f"{words}-{serial}", 0.45 * words
        noise = np.random.default_rng(words).normal(scale=0.1, size=round(seconds * 16_000))
        soundfile.write(source, noise, 16_000, format="wav")
        made[source.name] = seconds
    os.link(source, folder / "clips" / name)
    return made[source.name]


def apart(command: Command) -> dict[str, Any]:
    """Measure a start in a fresh process, whose memory is its own."""
    context = get_context("spawn")
    mine, theirs = context.Pipe()
    child = context.Process(target=_start, args=(theirs, command, time.time()))
    child.start()
    theirs.close()
    told: dict[str, Any] = mine.recv()
    child.join()
    return told


def _start(pipe: Connection, command: Command, begun: float) -> None:
    """Freeze the corpus, plan the first epoch, then load some passes with two workers."""
    corpus, path = str(Path(command.folder) / "en"), Path(command.folder) / "manifest.jsonl"
    config = DataConfig(corpus=(corpus,), scan="header", pad="bucket")
    whisper = load_whisper(command.model)
    built, _ = build_manifest(config, whisper.labels(), path.with_name("cache"), show=False)
    frozen = built.write(path)
    del built
    plan = Plan.from_utterances(frozen.train, config, seed=0)
    updates = len(plan.updates(0))
    told: dict[str, Any] = {
        "rows": len(frozen.train),
        "updates": updates,
        "seconds": time.time() - begun,
        "computing_seconds": time.process_time(),  # a busy machine changes the other figure more
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
    sampler = BucketedBatchSampler(plan, config, updates=updates)
    stages = BatchPreparer(whisper.labels(), whisper.n_mels)
    passes = train_batches(frozen.train, config, stages, sampler)
    batches = passes.start(Position(), updates)
    for number, _ in enumerate(islice(batches, PASSES[-1]), 1):
        if number in PASSES:
            told[f"workers_mb_after_{number}"] = list(_children_mb())
    passes.close()
    pipe.send(told)


def _children_mb() -> Iterator[float]:
    """Yield the memory that each child of this process has for itself, in megabytes."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    for pid in listed.split():
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        yield round(sum(map(int, HELD.findall(rollup))) / 1e3, 1)


def over_processes(command: Command) -> dict[str, Any]:
    """Plan an epoch for many processes, and go through the passes of some of them."""
    rng = random.Random(0)
    rows = []
    for number in range(command.utterances):
        seconds = min(29.9, max(0.5, rng.lognormvariate(1.5, 0.45)))
        tokens = max(5, round(3.2 * seconds + rng.gauss(4, 3)))
        rows.append(Utterance(id=str(number), audio="", text="", seconds=seconds, tokens=tokens))
    config = DataConfig(
        pad="bucket",
        update_seconds=120.0 * command.processes,
        update_tokens=4096 * command.processes,
    )
    begun = time.perf_counter()
    plan = Plan.from_utterances(rows, config, seed=0)
    updates = len(plan.updates(0))
    planned = time.perf_counter() - begun
    found = [_epoch_of(rank, plan, updates, config, command) for rank in range(command.ranks)]
    real, padded = (sum(each[key] for each in found) for key in ("real", "padded"))
    return {
        "utterances": len(rows),
        "processes": command.processes,
        "updates": updates,
        "plan_seconds": planned,
        "passes": sorted({each["passes"] for each in found}),
        "cutting_seconds": max(each["seconds"] for each in found),
        "padding": 1 - real / padded,
    }


def _epoch_of(
    rank: int, plan: Plan, updates: int, config: DataConfig, command: Command
) -> dict[str, float]:
    sampler = BucketedBatchSampler(
        plan, config, updates=updates, rank=rank, world_size=command.processes
    )
    begun = time.perf_counter()
    passes = list(sampler)
    told = {"seconds": time.perf_counter() - begun, "passes": len(passes)}
    draws = [draw for each in passes for draw in each if draw.clips]
    told["real"] = 100 * sum(plan.seconds(draw.clips[0]) for draw in draws)
    return told | {"padded": sum(draw.frames for draw in draws)}


def shown(told: dict[str, Any]) -> Table:
    """Return the figures, one a line."""
    table = Table("", "", title="scale", title_justify="left", show_header=False)
    for part, figures in told.items():
        for name, value in figures.items():
            each = f"{value:,.3g}" if isinstance(value, float) else f"{value}"
            table.add_row(f"{part}: {name.replace('_', ' ')}", each)
    return table


if __name__ == "__main__":
    main()
