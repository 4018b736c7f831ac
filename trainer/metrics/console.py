"""What a run tells a person at its start and at its end."""

import json
import math
import os
import re
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.table import Table

from data.config import DataConfig
from data.manifest import Manifest
from data.sampling.epoch_plan import Plan
from eval.metrics.confidence import percent, saved_percent
from eval.metrics.scores import saved_groups
from eval.report.console_tables import two_lines
from trainer.metrics.flops import WhisperFlops
from trainer.metrics.trackers import TENSORBOARD
from trainer.state import TrainState

LOOKED_AT = 1000  # texts, for what a person should know of
# estimates: 2,773 operations of whisper-small's 24 layers in a pass forward and back, at 5 to 8
# microseconds each; and the share of a GPU's peak that large matrix products reach
LAUNCH_SECONDS = 0.8e-3  # of a layer
ACHIEVED = 0.4


def warnings_of(manifest: Manifest, accelerator: Accelerator, model: Any) -> list[str]:
    """Return what is allowed, and what a person should know of all the same."""
    found = []
    if manifest.dev and manifest.dev == manifest.test:
        found.append("dev and test are the same: the reported error is the best of several looks")
    if getattr(model.generation_config, "is_multilingual", None) is False:
        texts = [u.text for u in islice(manifest.train, LOOKED_AT)]
        foreign = sum(not re.search("[A-Za-z]", text) for text in texts)
        if 2 * foreign > len(texts):
            found.append(
                f"the model knows English only, and {foreign} of the first {len(texts)} texts have "
                "no letter of it: take one without .en in its name"
            )
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    large = sum(p.numel() for p in model.parameters()) > 10_000_000  # small ones gain nothing
    idle = threads * accelerator.num_processes < cores
    if accelerator.device.type == "cpu" and large and idle:
        found.append(
            f"computing on {threads * accelerator.num_processes} of {cores} cores, accelerate "
            f"launch's default: OMP_NUM_THREADS={cores // accelerator.num_processes} uses them all"
        )
    return found


def launch_bound(
    config: DataConfig, plan: Plan, flops: WhisperFlops, peak: float, accelerator: Accelerator
) -> list[str]:
    """Return a warning where an update has too little audio per GPU: at most one sentence.

    Its kernels then take longer to launch than to compute.

    Args:
        config: says what an update and a pass hold.
        plan: of the corpus.
        flops: the model's arithmetic.
        peak: of a GPU, in FLOP/s.
        accelerator: knows the device, and the processes that share an update.
    """
    processes = accelerator.num_processes
    if accelerator.device.type != "cuda":
        return []
    clip = plan.mean_seconds, round(float(plan.outline.tokens.mean()))
    work = flops.train([clip]) / plan.mean_seconds  # of an audio second
    launching = LAUNCH_SECONDS * (flops.encoder_layers + flops.decoder_layers)
    least = launching * ACHIEVED * peak / work
    knob, each, held = "update_seconds", 1.0, config.update_seconds
    if config.update_clips is not None:
        knob, each = "update_clips", plan.mean_seconds
        held = config.update_clips * each
    if held / processes >= least:
        return []
    gpus = "the GPU" if processes == 1 else f"{processes} GPUs"
    return [
        f"each GPU gets {held / processes:.0f} s of audio per update; below about {least:.0f} s "
        "(an estimate) launching kernels takes longer than computing them: set "
        f"data.{knob}={math.ceil(least * processes / each)} to keep {gpus} busy (updates become "
        "larger and fewer: reconsider optim.lr and loop.epochs)"
    ]


def overview(
    manifest: Manifest, plan: Plan, model: Any, state: TrainState, steps: int, *, streaming: bool
) -> str:
    """Return a line on what the run is about to do."""
    part = "in the first window of the stream" if streaming else "an epoch"
    hours = plan.outline.hours
    weights = sum(p.numel() for p in model.parameters()) / 1e6
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    share = f" ({trained:.1f} M of them trained)" if trained < weights / 2 else ""
    begin = f"going on after update {state.step}: " if state.step else ""
    return (
        f"{begin}{weights:.1f} M parameters{share}, {len(manifest.train):,} clips "
        f"({hours:.2f} h) in {len(plan.buckets)} buckets, {len(plan.updates(0)):,} updates {part}, "
        f"{steps:,} in all; dev {len(manifest.dev):,} clips, test {len(manifest.test):,}"
    )


def farewell(folder: Path) -> str:
    """Return where to look at what there is, and what to do next."""
    shown = (
        ("model", f"  model    {folder / 'model'}"),
        ("report.html", f"  report   {folder / 'report.html'}"),
        ("eval", f"  scores   {folder / 'eval'}"),
        (TENSORBOARD, f"  curves   tensorboard --logdir {folder}"),
    )
    lines = [f"\n{told}" for name, told in shown if (folder / name).exists()]
    return "".join(lines) + f"\nnext:      python -m eval {folder / 'model'} CORPUS --split test"


def comparison(folder: Path, step: int) -> Table:
    """Return the table of a run's test scores before training and after it, from its files.

    Args:
        folder: the run's.
        step: the update whose model was chosen; an earlier end of the run may have reported others.
    """
    places = [folder / "eval" / f"step-{each:08d}" / "test" / "scores.json" for each in (0, step)]
    table = Table(title="test: before → after", title_justify="left", caption_justify="left")
    for column in ("language", "clips", "metric", "before", "after", "as written"):
        # 80 characters hold the widest figures where these two are folded
        table.add_column(column, no_wrap=column not in ("language", "as written"), min_width=5)
    if not all(path.is_file() for path in places):  # a full disk took one
        return table
    first, last = (json.loads(path.read_text(encoding="utf-8")) for path in places)
    normalizers = set()
    for (name, was), (_, now) in zip(saved_groups(first), saved_groups(last), strict=True):
        key = now["metric"].lower()
        normalizers.add(now["normalizer"])
        table.add_row(
            name,
            str(now["clips"]),
            now["metric"],
            two_lines(saved_percent(was[key])),
            f"[bold]{two_lines(saved_percent(now[key]))}[/]",
            f"{percent(was[key + '_ortho']['rate'])} → {percent(now[key + '_ortho']['rate'])}",
        )
    table.caption = f"In brackets: 95 %. Normaliser: {'; '.join(sorted(normalizers))}"
    return table
