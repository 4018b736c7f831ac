"""`python -m trainer find-batch-size RECIPE …`: the most that fits in a forward pass.

The real model makes real passes and optimizer steps, bucket by bucket, ever larger ones until one
does not fit (the idea of NeMo's OOMptimizer). What is found is kept beside the runs, by device,
model and precision, and taken by every run whose data.max_seconds_per_forward is not set.
"""

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from data.atomic_files import write_json
from data.batch import Shape
from data.config import DataConfig
from data.errors import InputError
from data.log_mel import FRAMES_PER_SECOND, N_FRAMES
from data.manifest import build_manifest, scan_cache_path
from data.sampling.epoch_plan import Plan, padded_frames
from eval.whisper import Whisper, load_whisper
from trainer.config import Config
from trainer.distributed.accelerator import build_accelerator, give_back_memory
from trainer.distributed.engine import Engine, build_engine
from trainer.model import prepare_training
from trainer.out_of_memory import rehearse
from trainer.plan.forward_limit import FittingBatch, budget_of, fit_path

SHARE = 0.9  # of the memory: the rest is for what comes and goes, and for fragments
STRAIGHT = 5  # trials along the line, before the range is halved
BUCKETS = 6  # of a corpus that are tried, evenly spread; and 30 s


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig(Config):
    """Find the largest forward passes that fit in memory, and keep them for later runs."""

    # Memory to stay within, in gigabytes. None is nine tenths of the device's.
    gigabytes: float | None = None


class PeakMemory:
    """Reads a device's peak of memory: what the GPU's allocator gave, or this process on Linux."""

    def __init__(self, device: torch.device) -> None:
        """Take the device."""
        self._cuda = device.type == "cuda"

    @property
    def capacity(self) -> float:
        """Return all the memory that there is to take, in bytes."""
        if self._cuda:
            return float(torch.cuda.mem_get_info()[1])
        told = Path("/proc/meminfo").read_text(
            encoding="ascii"
        )  # free, and what files' cache holds
        return float(re.findall(r"MemAvailable:\s+(\d+) kB", told)[0]) * 1024

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
        precision=config.precision, deterministic=config.deterministic, trackers=()
    )
    whisper = load_whisper(config.model.name, config.model.revision)
    shapes = worst_shapes(config.data, whisper, folder)
    module = prepare_training(whisper, config.model)
    engine = build_engine(accelerator, module, config.optim)
    gauge = PeakMemory(accelerator.device)
    limit = gauge.capacity * SHARE if config.gigabytes is None else config.gigabytes * 1e9
    found = [largest(engine, shape, gauge, limit) for shape in shapes]
    budget = budget_of(found)
    path = fit_path(folder, accelerator, whisper.model.config, config.model, config.optim)
    write_json(path, {**budget, "tried": [asdict(each) for each in found]})
    console = Console(highlight=False)
    console.print(table(found, limit))
    told = ", ".join(f"data.{key}={value}" for key, value in budget.items())
    console.print(f"{told}\nkept in {path}, for runs that do not set data.max_seconds_per_forward")


def worst_shapes(config: DataConfig, whisper: Whisper, folder: Path) -> list[Shape]:
    """Return the rows of an update, frames and tokens of some buckets of a corpus, and of 30 s.

    Raises:
        InputError: the corpus cannot be used.
    """
    cache = scan_cache_path(folder.parent, config)
    manifest, _ = build_manifest(config, whisper.labels(), cache, show=True)
    plan = Plan.from_utterances(manifest.train, config, seed=0)
    chosen = sorted({round(i * (len(plan.buckets) - 1) / (BUCKETS - 1)) for i in range(BUCKETS)})
    shapes = []
    for bucket in (plan.buckets[i] for i in chosen):
        tokens = int(plan.columns.tokens[bucket].max())
        seconds = plan.columns.seconds[bucket]
        shortest, longest = float(seconds.min()), float(seconds.max())
        rows = config.update_clips or int(config.update_seconds / shortest)
        shapes.append(Shape(max(1, rows), padded_frames(longest), tokens))
    whole = Shape(max(shape.rows for shape in shapes), N_FRAMES, int(plan.columns.tokens.max()))
    return [*(shape for shape in shapes if shape.frames < N_FRAMES), whole]


def largest(engine: Engine, most: Shape, gauge: PeakMemory, limit: float) -> FittingBatch:
    """Return the pass of the most rows that stays within a limit, no more than an update has.

    Raises:
        InputError: one row does not.
    """
    took: dict[int, tuple[float, float]] = {}

    def peak(rows: int) -> float:
        gauge.begin()
        started = time.perf_counter()
        refused = rehearse(engine, most._replace(rows=rows))
        took[rows] = gauge.peak / 1e9, (time.perf_counter() - started) / 2  # it makes two of them
        torch.cuda.empty_cache()  # does nothing where there is no GPU
        return gauge.peak if refused is None else math.inf

    rows = search(peak, limit, most.rows)
    if rows == 0:
        raise InputError(
            f"one clip of {most.frames / FRAMES_PER_SECOND:.0f} s takes more than the "
            f"{limit / 1e9:.1f} GB there are: set model.gradient_checkpointing=true, or take a "
            "smaller model"
        )
    gigabytes, seconds = took[rows]
    shape = most._replace(rows=rows)
    return FittingBatch(shape=shape, most=most.rows, gigabytes=gigabytes, took=seconds)


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


def table(found: Sequence[FittingBatch], limit: float) -> Table:
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
