"""Seq2SeqTrainer's side: starts peer.py, and reads what it found."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from figures import Evaluation, Figures, Look
from measure import Process, Task, folder_bytes, launch
from peer import FIRST_UPDATE, LOADED
from peer_data import Facts

from data.atomic_files import write_json
from data.log_mel import CHUNK_SECONDS


def prepare(task: Task, cache: Path) -> Figures:
    """Fill the cache, and measure what it costs."""
    _, found = start(task, cache, do="prepare")
    return Figures(preparation_seconds=found["seconds"], disk_bytes=folder_bytes(cache))


def train(task: Task, cache: Path, seed: int) -> Figures:
    """Measure how fast it trains, how soon, and in how much memory.

    Which clips the timed updates drew is not known; what depends on it is taken of the mean clip.
    """
    process, found = start(task, cache, do="train", seed=seed)
    seconds, clips = found["seconds"], found["clips"]
    mean_seconds = sum(u.seconds for u in task.train) / len(task.train)
    loading = process.said(LOADED)
    return Figures(
        loading_seconds=loading,
        first_update_seconds=process.said(FIRST_UPDATE) - loading,
        updates_per_second=found["updates"] / seconds,
        clips_per_second=clips / seconds,
        audio_seconds_per_second=clips * mean_seconds / seconds,
        useful_flops=task.flops.train(task.lengths) / len(task.lengths) * clips / seconds,
        encoder_padding=1 - mean_seconds / CHUNK_SECONDS,
        decoder_padding=1 - found["tokens"] / found["slots"],
        tree_bytes=process.tree_bytes,
        process_bytes=process.process_bytes,
        device_bytes=found.get("device_bytes"),
    )


def evaluate(task: Task, cache: Path, seed: int, updates: int) -> Evaluation:
    """Train between two evaluations."""
    process, found = start(task, cache, do="evaluate", seed=seed, updates=updates)
    before, after = (
        Look(
            texts=dict(zip((u.id for u in task.test), found[when]["texts"], strict=True)),
            seconds=found[when]["seconds"],
        )
        for when in ("before", "after")
    )
    return Evaluation(before=before, after=after, tree_bytes=process.tree_bytes)


def start(task: Task, cache: Path, **more: Any) -> tuple[Process, dict[str, Any]]:
    """Run peer.py, and return what it wrote."""
    knobs = task.knobs
    told, out = cache.parent / "facts.json", cache.parent / "found.json"
    facts = Facts(
        model=task.model,
        corpus=str(task.corpus),
        language=knobs.language,
        cache=str(cache),
        output=str(cache.parent / "output"),
        out=str(out),
        clips=knobs.clips,
        eval_clips=knobs.eval_clips,
        warmup=knobs.warmup,
        workers=knobs.workers,
        precision=knobs.numbers,
        gradient_checkpointing=knobs.gradient_checkpointing,
        **{"updates": knobs.updates, "seed": 0} | more,
    )
    write_json(told, asdict(facts))
    process = launch(["tests/benchmark/peer.py", str(told)], knobs.threads)
    return process, json.loads(out.read_text(encoding="utf-8"))
