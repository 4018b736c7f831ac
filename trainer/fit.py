"""`python -m trainer fit RECIPE …`: the most that a forward pass can hold on this device.

The real model makes real passes and optimizer steps, bucket by bucket, ever larger ones until one
does not fit (the idea of NeMo's OOMptimizer). What is found is kept beside the runs, by device,
model and precision, and taken by every run whose data.pass_seconds is not set.
"""

import json
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from torch import nn

from data.config import DataConfig
from data.errors import InputError
from data.features import FRAMES_PER_SECOND, N_FRAMES
from data.files import write_json
from data.manifest import build_manifest, scan_cache
from data.plan import Plan, edge_of
from data.utterance import Shape
from eval.whisper import Whisper, load_whisper
from trainer.config import Config
from trainer.device import build_accelerator, give_back_memory
from trainer.memory import rehearse
from trainer.model import ModelConfig, prepare_training
from trainer.optim import build_optimizer

SHARE = 0.9  # of the memory: the rest is for what comes and goes, and for fragments
STRAIGHT = 5  # trials along the line, before the range is halved
BUCKETS = 6  # of a corpus that are tried, evenly spread; and 30 s


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig(Config):
    """Find the largest passes that fit in memory. The arguments are those of training."""

    gigabytes: float | None = None  # to stay within; None: nine tenths of the device's


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """The most rows of one length that fit, and what they took."""

    shape: Shape
    most: int  # rows that were asked for: an update has no more
    gigabytes: float  # at the peak
    took: float  # seconds, forward and backward


class Gauge:
    """Reads a device's peak of memory: what the GPU's allocator gave, or this process on Linux."""

    def __init__(self, device: torch.device) -> None:
        """Take the device."""
        self._cuda = device.type == "cuda"

    @property
    def capacity(self) -> float:
        """Return all the memory that there is to take, in bytes."""
        if self._cuda:
            return float(torch.cuda.mem_get_info()[1])
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))

    def begin(self) -> None:
        """Forget the peak."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            give_back_memory()
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    @property
    def peak(self) -> float:
        """Return the peak since begin(), in bytes."""
        if self._cuda:
            torch.cuda.synchronize()
            return float(torch.cuda.max_memory_allocated())
        told = Path("/proc/self/status").read_text(encoding="ascii")
        return float(re.findall(r"VmHWM:\s+(\d+) kB", told)[0]) * 1024


def fit(config: FitConfig) -> None:
    """Search, show, and keep what was found.

    Raises:
        InputError: not even one clip fits.
    """
    folder = Path(config.run_dir)
    accelerator = build_accelerator(
        folder, precision=config.precision, deterministic=config.deterministic, trackers=()
    )
    whisper = load_whisper(config.model.name, config.model.revision)
    shapes = worst_shapes(config.data, whisper, folder)
    module = prepare_training(whisper, config.model)
    model, optimizer = accelerator.prepare(module, build_optimizer(module, config.optim))
    gauge = Gauge(accelerator.device)
    limit = gauge.capacity * SHARE if config.gigabytes is None else config.gigabytes * 1e9
    found = []
    for shape in shapes:
        found.append(largest(accelerator, model, optimizer, shape, gauge, limit))
    budget = budget_of(found)
    path = fit_path(folder, accelerator, config.model)
    write_json(path, {**budget, "tried": [asdict(each) for each in found]})
    console = Console(highlight=False)
    console.print(table(found, limit))
    told = ", ".join(f"data.{key}={value}" for key, value in budget.items())
    console.print(f"{told}\nkept in {path}, for runs that do not set data.pass_seconds")


def worst_shapes(config: DataConfig, whisper: Whisper, folder: Path) -> list[Shape]:
    """Return the rows of an update, frames and tokens of some buckets of a corpus, and of 30 s.

    Raises:
        InputError: the corpus cannot be used.
    """
    cache = scan_cache(folder.parent, config)
    manifest, _ = build_manifest(config, whisper.labels(config.task), cache, show=True)
    plan = Plan.of(manifest.train, config, seed=0)
    chosen = sorted({round(i * (len(plan.buckets) - 1) / (BUCKETS - 1)) for i in range(BUCKETS)})
    shapes = []
    for bucket in (plan.buckets[i] for i in chosen):
        tokens = max(plan.tokens[i] for i in bucket)
        shortest, longest = (f(plan.seconds[i] for i in bucket) for f in (min, max))
        rows = config.update_clips or int(config.update_seconds / shortest)
        shapes.append(Shape(max(1, rows), edge_of(longest), tokens))
    whole = Shape(max(shape.rows for shape in shapes), N_FRAMES, max(plan.tokens))
    return [*(shape for shape in shapes if shape.frames < N_FRAMES), whole]


def largest(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: object,
    most: Shape,
    gauge: Gauge,
    limit: float,
) -> Fitted:
    """Return the pass of the most rows that stays within a limit, no more than an update has.

    Raises:
        InputError: one row does not.
    """
    took: dict[int, tuple[float, float]] = {}

    def peak(rows: int) -> float:
        gauge.begin()
        started = time.perf_counter()
        fits = rehearse(accelerator, model, optimizer, most._replace(rows=rows))
        took[rows] = gauge.peak / 1e9, time.perf_counter() - started
        torch.cuda.empty_cache()  # does nothing where there is no GPU
        return gauge.peak if fits else math.inf

    rows = search(peak, limit, most.rows)
    if rows == 0:
        raise InputError(
            f"one clip of {most.frames / FRAMES_PER_SECOND:.0f} s takes more than the "
            f"{limit / 1e9:.1f} GB there are: set model.gradient_checkpointing=true, or take a "
            "smaller model"
        )
    gigabytes, seconds = took[rows]
    shape = most._replace(rows=rows)
    return Fitted(shape=shape, most=most.rows, gigabytes=gigabytes, took=seconds)


def search(peak: Callable[[int], float], limit: float, most: int) -> int:
    """Return the largest number of rows, up to `most`, whose peak is within a limit; 0 for none.

    Memory grows with rows along a line: two trials tell about where it meets the limit. Where it
    does not, the range is halved.
    """
    peaks: dict[int, float] = {}
    good, bad, guess = 0, most + 1, 1
    while bad - good > 1:
        rows = min(max(guess, good + 1), bad - 1)
        peaks[rows] = peak(rows)
        good, bad = (rows, bad) if peaks[rows] <= limit else (good, rows)
        known = sorted(row for row, found in peaks.items() if found < math.inf)[-2:]
        guess = 2 * rows if good else 1
        if len(peaks) >= STRAIGHT:
            guess = (good + bad) // 2
        elif len(known) == 2 and peaks[known[1]] > peaks[known[0]]:
            each = (peaks[known[1]] - peaks[known[0]]) / (known[1] - known[0])
            guess = known[1] + int((limit - peaks[known[1]]) / each)
    return good


def budget_of(found: Sequence[Fitted]) -> dict[str, float | None]:
    """Return the knobs of a budget that every bucket keeps within what fitted.

    Where long rows have room for fewer seconds in all, attention is what they pay for: a row of s
    seconds then counts s + s² / q, with the q that fits best.
    """
    tokens = max(each.shape.rows * each.shape.tokens for each in found)
    full = [each.shape for each in found if each.shape.rows < each.most]
    if not full:  # memory is no limit for this update
        most = max(each.shape.seconds for each in found)
        return {"pass_seconds": most, "pass_quadratic": None, "pass_tokens": tokens}
    quadratic = _quadratic(full)
    room = min(shape.rows * _weight(shape.frames / FRAMES_PER_SECOND, quadratic) for shape in full)
    return {"pass_seconds": room, "pass_quadratic": quadratic, "pass_tokens": tokens}


def _quadratic(full: Sequence[Shape]) -> float | None:
    """Fit 1 / (rows * s) = (1 + s / q) / budget by least squares; None where it does not fall."""
    if len({shape.frames for shape in full}) < 2:
        return None
    seconds = np.array([shape.frames / FRAMES_PER_SECOND for shape in full])
    slope, start = np.polyfit(seconds, [1 / shape.seconds for shape in full], 1)
    return float(start / slope) if slope > 0 and start > 0 else None


def _weight(seconds: float, quadratic: float | None) -> float:
    return seconds if quadratic is None else seconds + seconds**2 / quadratic


def fit_path(folder: Path, accelerator: Accelerator, model: ModelConfig) -> Path:
    """Return where the budget of a device, a model and a precision is kept, beside the runs."""
    device, cuda = accelerator.device, accelerator.device.type == "cuda"
    parts = [torch.cuda.get_device_name(device) if cuda else "cpu", Path(model.name).name]
    parts += [accelerator.mixed_precision, "recomputed" if model.gradient_checkpointing else ""]
    parts += ["frozen" if model.freeze_encoder else ""]
    name = re.sub(r"[^\w.]+", "-", "-".join(filter(None, parts)))
    return folder.parent / ".fit" / f"{name}.json"


def fitted(config: DataConfig, path: Path) -> DataConfig:
    """Return the knobs with the budget that was found, unless they name one."""
    if config.pass_seconds is not None or not path.exists():
        return config
    told = json.loads(path.read_text(encoding="utf-8"))
    budget = {key: told[key] for key in ("pass_seconds", "pass_quadratic", "pass_tokens")}
    return replace(config, **budget)


def table(found: Sequence[Fitted], limit: float) -> Table:
    """Return one line a length."""
    shown = Table(title=f"the largest passes within {limit / 1e9:.1f} GB", title_justify="left")
    for column in ("seconds", "tokens", "rows", "padded audio, s", "GB", "audio-s/s"):
        shown.add_column(column, justify="right")
    for each in found:
        shape = each.shape
        shown.add_row(
            f"{shape.frames / FRAMES_PER_SECOND:.2f}",
            str(shape.tokens),
            f"{shape.rows}{'' if shape.rows < each.most else ', all of an update'}",
            f"{shape.seconds:.0f}",
            f"{each.gigabytes:.2f}",
            f"{shape.seconds / each.took:.0f}",
        )
    return shown
