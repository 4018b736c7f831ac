"""What a run prints at its start and at its end."""

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
from data.errors import InputError
from data.manifest import Manifest
from data.sampling.epoch_plan import Plan
from eval.metrics.compare import ALL, Compare, compare_saved
from eval.metrics.confidence import percent, saved_percent
from eval.metrics.scores import saved_groups
from eval.report.console_tables import two_lines
from trainer.metrics.flops import WhisperFlops
from trainer.metrics.trackers import TENSORBOARD
from trainer.state import TrainState

CHECKED_TEXTS = 1000
# estimates: 2,773 operations of whisper-small's 24 layers in a pass forward and back, at 5 to 8
# microseconds each; and the share of a GPU's peak that large matrix products reach
LAUNCH_SECONDS = 0.8e-3  # of a layer
ACHIEVED = 0.4


def warnings_of(manifest: Manifest, accelerator: Accelerator, model: Any) -> list[str]:
    """Return warnings of what is allowed and probably not meant."""
    found = []
    if manifest.dev and manifest.dev == manifest.test:
        found.append(
            "dev and test are the same: what is reported is the best of several evaluations"
        )
    if getattr(model.generation_config, "is_multilingual", None) is False:
        texts = [u.text for u in islice(manifest.train, CHECKED_TEXTS)]
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
    clip = plan.mean_seconds, round(float(plan.columns.tokens.mean()))
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
    hours = plan.columns.hours
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
    """Return where the results are, and what to do next."""
    shown = (
        ("model", f"  model    {folder / 'model'}"),
        ("report.html", f"  report   {folder / 'report.html'}"),
        ("eval", f"  scores   {folder / 'eval'}"),
        (TENSORBOARD, f"  curves   tensorboard --logdir {folder}"),
    )
    lines = [f"\n{told}" for name, told in shown if (folder / name).exists()]
    return "".join(lines) + f"\nnext:      python -m eval {folder / 'model'} CORPUS --split test"


FEWEST_CLIPS = 30
SHOWN_CHANGE = 0.1  # of the error before: what a test set has to be able to show


def evaluation_folder(run: Path, step: int, split: str) -> Path:
    """Return where a run keeps the evaluation of a split after an update."""
    return run / "eval" / f"step-{step:08d}" / split


def comparison(folder: Path, step: int) -> Table:
    """Return the table of a run's test scores before training and after it, from its files.

    Args:
        folder: the run's.
        step: the update whose model was chosen; an earlier end of the run may have reported others.
    """
    places = [evaluation_folder(folder, each, "test") / "scores.json" for each in (0, step)]
    title = "test, before and after training"
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in ("language", "clips", "metric", "before", "after", "orthographic"):
        # 80 characters hold the widest figures where these two are folded
        table.add_column(column, no_wrap=column not in ("language", "orthographic"), min_width=5)
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
    table.caption = f"In brackets: 95 % intervals. Normaliser: {'; '.join(sorted(normalizers))}"
    return table


def verdicts(run: Path, step: int, split: str = "test") -> list[str]:
    """Return the verdict of a paired test on each language, with warnings where it tells little.

    Args:
        run: its folder.
        step: the update whose model is compared with that of update 0.
        split: whose clips.

    Returns:
        nothing where an evaluation is missing or cannot be read, or was decoded differently.
    """
    places = [evaluation_folder(run, each, split) for each in (0, step)]
    try:
        decoded = {_true_length(place) for place in places}
        found = compare_saved(*places) if step and len(decoded) == 1 else []
    except (
        InputError,
        OSError,
        ValueError,
    ):  # a full disk took one, or an earlier version wrote it
        return []
    lines = []
    for each in found:
        if each.name == ALL:  # a sum of words and characters, where languages differ
            continue
        lines.append(f"{split} {_verdict(each)}")
        if warning := weakness(each, split):
            lines.append(f"warning: {warning}")
    return list(dict.fromkeys(lines))  # a warning may be of all languages


def _true_length(place: Path) -> bool:
    saved = json.loads((place / "scores.json").read_text(encoding="utf-8"))
    return bool(saved.get("true_length"))


def _verdict(found: Compare) -> str:
    """Return what the paired test says, in a sentence."""
    told, metric = found.difference, found.metric
    change = f"{metric} {100 * told.change:+.2f} points"
    if told.interval is not None:
        low, high = 100 * told.interval.low, 100 * told.interval.high
        change += f" (95 % interval {low:+.2f} to {high:+.2f})"
    better = "better" if told.change < 0 else "worse"
    result = f"{better} than before training" if told.significant else "no difference can be shown"
    return f"{found.name}: {result}: {change}, paired test of {found.clips:,} clips"


def weakness(found: Compare, split: str) -> str | None:
    """Return a warning where clips are too few to say much, or None.

    Two things make a set too small. Of fewer than 30 clips the interval itself is too narrow, see
    too_few(). And where no difference was shown, the set has to be able to show one that matters:
    if half the interval is more than a tenth of the error before, a model that makes a tenth fewer
    errors would not have been told from one that is as good. Its width falls with the root of the
    number of clips, which says how many that would take.
    """
    if few := too_few(split, found.clips):
        return few
    told = found.difference
    least = SHOWN_CHANGE * told.rate_a
    half = (told.interval.high - told.interval.low) / 2 if told.interval else 0.0
    if told.significant or not least or half <= least:
        return None
    needed = 10 * math.ceil(found.clips * (half / least) ** 2 / 10)
    return (
        f"{found.clips:,} {split} clips ({found.name}) cannot show a change of a tenth of the "
        f"error: the interval is ±{100 * half:.2f} points; it would take about {needed:,} clips"
    )


def too_few(split: str, clips: int) -> str | None:
    """Return a warning where a split has fewer than 30 clips, or None.

    The interval is one of percentiles of a bootstrap. Of n clips it is narrower than Student's by
    z √((n-1)/n) / t: even of normal differences, one that says 95 % covers 88.0 % with 7 clips,
    89.8 % with 9, and 93.6 % with 30. Errors of clips are skewed, which makes it worse.
    """
    if clips >= FEWEST_CLIPS:
        return None
    job = "choose a best model" if split == "dev" else "tell models apart"
    return (
        f"{clips} {split} clips cannot {job}: with fewer than {FEWEST_CLIPS} the 95 % intervals "
        "are too narrow, and chance decides; add clips to the split"
    )
