"""What a run tells a person at its start and at its end."""

import os
import re
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from data.manifest import Manifest
from data.plan import Plan
from trainer.state import TrainState

LOOKED_AT = 1000  # texts, for what a person should know of


def cautions(manifest: Manifest, accelerator: Accelerator, model: Any) -> list[str]:
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


def overview(
    manifest: Manifest, plan: Plan, model: Any, state: TrainState, steps: int, *, streaming: bool
) -> str:
    """Return a line on what the run is about to do."""
    part = "in the first window of the stream" if streaming else "an epoch"
    hours = sum(plan.seconds) / 3600
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
    """Return where to look, and what to do next."""
    return (
        f"\n  model    {folder / 'model'}\n"
        f"  report   {folder / 'report.html'}\n"
        f"  scores   {folder / 'eval'}\n"
        f"  curves   tensorboard --logdir {folder}\n"
        f"next:      python -m eval {folder / 'model'} CORPUS --split test"
    )
