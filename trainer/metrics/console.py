"""Messages that a run prints at its start and its end: overview, warnings, results."""

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
from eval.metrics.confidence_intervals import percent, saved_percent
from eval.metrics.scores import saved_groups
from eval.report.console_tables import two_lines
from trainer.metrics.flops import WhisperFlops
from trainer.metrics.trackers import TENSORBOARD
from trainer.state import TrainState

CHECKED_TEXTS = 1000  # number of transcripts that are checked for English letters
# estimates: whisper-small's 24 layers take 2,773 operations forward and backward, 5 to 8
# microseconds each; large matrix products reach this share of a GPU's peak
LAUNCH_SECONDS = 0.32e-3  # to launch the 46 kernels of a layer, forward and backward
PEAK_SHARE = 0.4
MIN_CLIPS = 30  # of a split, for bootstrap intervals
DETECTABLE_CHANGE = 0.1  # of the error before training, that a test set should be able to show


def start_warnings(manifest: Manifest, accelerator: Accelerator, model: Any) -> list[str]:
    """Return warnings about settings that are valid but probably unintended."""
    warnings = []
    if manifest.dev and manifest.dev == manifest.test:
        warnings.append(
            "dev and test are the same clips: the test error is optimistic, since the best model "
            "is chosen on them"
        )
    if getattr(model.generation_config, "is_multilingual", None) is False:
        texts = [u.text for u in islice(manifest.train, CHECKED_TEXTS)]
        foreign = sum(not re.search("[A-Za-z]", text) for text in texts)
        if 2 * foreign > len(texts):
            warnings.append(
                f"the model is English-only, but {foreign} of the first {len(texts)} transcripts "
                "have no Latin letters: use a model without .en in its name"
            )
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    large = sum(p.numel() for p in model.parameters()) > 10_000_000  # small models gain nothing
    idle = threads * accelerator.num_processes < cores
    if accelerator.device.type == "cpu" and large and idle:
        warnings.append(
            f"training uses {threads * accelerator.num_processes} of {cores} CPU cores, the "
            "default of accelerate launch: set "
            f"OMP_NUM_THREADS={cores // accelerator.num_processes} to use all of them"
        )
    return warnings


def gpu_warnings(
    config: DataConfig, plan: Plan, flops: WhisperFlops, peak: float, accelerator: Accelerator
) -> list[str]:
    """Return a warning if updates have too little audio per GPU, else an empty list.

    Launching the kernels of an update then takes longer than computing them.

    Args:
        config: size of an update.
        plan: of the corpus.
        flops: of the model.
        peak: of a GPU, in FLOP/s.
        accelerator: device and number of processes.
    """
    processes = accelerator.num_processes
    if accelerator.device.type != "cuda":
        return []
    clip = plan.mean_seconds, round(float(plan.columns.tokens.mean()))
    flops_per_second = flops.train([clip]) / plan.mean_seconds  # of audio
    launch_seconds = LAUNCH_SECONDS * (flops.encoder_layers + flops.decoder_layers)
    min_seconds = launch_seconds * PEAK_SHARE * peak / flops_per_second  # of audio per GPU
    key, unit_seconds, update_seconds = "update_seconds", 1.0, config.update_seconds
    if config.update_clips is not None:
        key, unit_seconds = "update_clips", plan.mean_seconds
        update_seconds = config.update_clips * unit_seconds
    if update_seconds / processes >= min_seconds:
        return []
    gpus = "the GPU" if processes == 1 else f"{processes} GPUs"
    return [
        f"each GPU gets {update_seconds / processes:.0f} s of audio per update; below about "
        f"{min_seconds:.0f} s (an estimate) launching kernels takes longer than computing them: "
        f"set data.{key}={math.ceil(min_seconds * processes / unit_seconds)} to keep {gpus} busy "
        "(updates become larger and fewer: reconsider optim.lr and loop.epochs)"
    ]


def run_overview(
    manifest: Manifest, plan: Plan, model: Any, state: TrainState, steps: int, *, streaming: bool
) -> str:
    """Return a line with the size of the model, the data and the training."""
    per = "in the first window of the stream" if streaming else "per epoch"
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    share = f" ({trained:.1f} M of them trained)" if trained < parameters / 2 else ""
    prefix = f"resuming after update {state.step}: " if state.step else ""
    return (
        f"{prefix}{parameters:.1f} M parameters{share}, {len(manifest.train):,} clips "
        f"({plan.columns.hours:.2f} h) in {len(plan.buckets)} buckets, "
        f"{len(plan.updates(0)):,} updates {per}, "
        f"{steps:,} in all; dev {len(manifest.dev):,} clips, test {len(manifest.test):,}"
    )


def closing_message(folder: Path) -> str:
    """Return the paths of a run's results, and the command to evaluate its model."""
    outputs = (
        ("model", f"  model    {folder / 'model'}"),
        ("report.html", f"  report   {folder / 'report.html'}"),
        ("eval", f"  scores   {folder / 'eval'}"),
        (TENSORBOARD, f"  curves   tensorboard --logdir {folder}"),
    )
    lines = [f"\n{line}" for name, line in outputs if (folder / name).exists()]
    return "".join(lines) + f"\nnext:      python -m eval {folder / 'model'} CORPUS --split test"


def evaluation_folder(run: Path, step: int, split: str) -> Path:
    """Return the folder of the evaluation of a split after an update."""
    return run / "eval" / f"step-{step:08d}" / split


def comparison_table(folder: Path, step: int) -> Table:
    """Return the table of test scores before and after training, from a run's files.

    Args:
        folder: of the run.
        step: of the chosen model; earlier ends of the run may have scored other models.
    """
    paths = [evaluation_folder(folder, n, "test") / "scores.json" for n in (0, step)]
    title = "test, before and after training"
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in ("language", "clips", "metric", "before", "after", "orthographic"):
        # with these two wrapped, the widest figures fit into 80 characters
        table.add_column(column, no_wrap=column not in ("language", "orthographic"), min_width=5)
    if not all(path.is_file() for path in paths):  # it could not be written to a full disk
        return table
    first, last = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    normalizers = set()
    for (name, before), (_, after) in zip(saved_groups(first), saved_groups(last), strict=True):
        key = after["metric"].lower()
        ortho = f"{key}_ortho"
        normalizers.add(after["normalizer"])
        table.add_row(
            name,
            str(after["clips"]),
            after["metric"],
            two_lines(saved_percent(before[key])),
            f"[bold]{two_lines(saved_percent(after[key]))}[/]",
            f"{percent(before[ortho]['rate'])} → {percent(after[ortho]['rate'])}",
        )
    table.caption = f"In brackets: 95 % intervals. Normaliser: {'; '.join(sorted(normalizers))}"
    return table


def verdicts(run: Path, step: int, split: str = "test") -> list[str]:
    """Return the result of a paired test for each language, with warnings if clips are too few.

    Args:
        run: folder of the run.
        step: of the model that is compared with the one before training.
        split: name of the evaluated split.

    Returns:
        an empty list if an evaluation is missing or damaged, or if they were decoded differently.
    """
    folders = [evaluation_folder(run, n, split) for n in (0, step)]
    try:
        modes = {_true_length(folder) for folder in folders}
        comparisons = compare_saved(*folders) if step and len(modes) == 1 else []
    except (InputError, OSError, ValueError):  # lost on a full disk, or of an earlier version
        return []
    lines = []
    for comparison in comparisons:
        if comparison.name == ALL:  # it adds words and characters if languages differ in the unit
            continue
        lines.append(f"{split} {_verdict(comparison)}")
        if warning := low_power_warning(comparison, split):
            lines.append(f"warning: {warning}")
    return list(dict.fromkeys(lines))  # languages may share a warning


def _true_length(folder: Path) -> bool:
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    return bool(scores.get("true_length"))


def _verdict(comparison: Compare) -> str:
    """Return the result of the paired test in a sentence."""
    difference = comparison.difference
    change = f"{comparison.metric} {100 * difference.change:+.2f} points"
    if difference.interval is not None:
        low, high = 100 * difference.interval.low, 100 * difference.interval.high
        change += f" (95 % interval {low:+.2f} to {high:+.2f})"
    result = "no difference can be shown"
    if difference.significant:
        result = f"{'better' if difference.change < 0 else 'worse'} than before training"
    return f"{comparison.name}: {result}: {change}, paired test of {comparison.clips:,} clips"


def low_power_warning(comparison: Compare, split: str) -> str | None:
    """Return a warning if a split has too few clips for a test to be meaningful, or None.

    With fewer than 30 clips the interval is too narrow, see too_few_clips_warning(). With more, a
    split is too small if no difference was shown and half the interval is wider than a tenth of the
    error before training: a model with a tenth fewer errors could not be told from an equal one.
    The width falls with the square root of the number of clips, which gives the number needed.
    """
    if warning := too_few_clips_warning(split, comparison.clips):
        return warning
    difference = comparison.difference
    detectable = DETECTABLE_CHANGE * difference.rate_a
    interval = difference.interval
    half = (interval.high - interval.low) / 2 if interval else 0.0
    if difference.significant or not detectable or half <= detectable:
        return None
    needed = 10 * math.ceil(comparison.clips * (half / detectable) ** 2 / 10)
    return (
        f"{comparison.clips:,} {split} clips ({comparison.name}) cannot show a change of a tenth "
        f"of the error: the interval is ±{100 * half:.2f} points; it would take about "
        f"{needed:,} clips"
    )


def too_few_clips_warning(split: str, clips: int) -> str | None:
    """Return a warning if a split has fewer than 30 clips, or None.

    The interval is a percentile bootstrap. With n clips it is narrower than Student's by
    z √((n-1)/n) / t: even for normal differences, a nominal 95 % covers 88.0 % with 7 clips,
    89.8 % with 9, and 93.6 % with 30. Errors of clips are skewed, which makes it worse.
    """
    if clips >= MIN_CLIPS:
        return None
    purpose = "choose a best model" if split == "dev" else "tell models apart"
    return (
        f"{clips} {split} clips cannot {purpose}: with fewer than {MIN_CLIPS} the 95 % intervals "
        "are too narrow, and chance decides; add clips to the split"
    )
