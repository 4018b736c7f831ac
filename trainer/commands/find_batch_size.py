"""`python -m trainer find-batch-size RECIPE …`: find the largest passes that fit in memory.

The model makes real passes and optimizer steps for each bucket, with more and more rows until one
does not fit (the idea of NeMo's OOMptimizer). The result is stored beside the runs, by device,
model and precision, and used by every run whose data.max_seconds_per_forward is not set.
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
from data.sampling.epoch_plan import Plan
from data.sampling.padded_length import padded_frames
from eval.whisper import Whisper, load_whisper
from trainer.config import Config
from trainer.distributed.accelerator import build_accelerator, trim_memory
from trainer.distributed.build_engine import build_engine
from trainer.distributed.engine import Engine
from trainer.model import prepare_training
from trainer.out_of_memory import try_largest_pass
from trainer.plan.forward_pass_budget import FittingBatch, fit_path, pass_budget

MEMORY_SHARE = 0.9  # of the device: the rest is for temporary tensors and fragmentation
LINEAR_TRIALS = 5  # trials by linear extrapolation, before bisection
BUCKETS = 6  # buckets of a corpus to try, evenly spread; 30 s is tried too


@dataclass(frozen=True, kw_only=True, slots=True)
class FindBatchSizeConfig(Config):
    """Find the largest forward passes that fit in memory, and keep them for later runs."""

    # Memory to stay within, in gigabytes. None is nine tenths of the device's.
    gigabytes: float | None = None


class PeakMemory:
    """Measures peak memory: of PyTorch's allocator on a GPU, of this process on Linux."""

    def __init__(self, device: torch.device) -> None:
        """Store whether the device is a GPU."""
        self._cuda = device.type == "cuda"

    @property
    def capacity(self) -> float:
        """Memory that this process can use, in bytes."""
        if self._cuda:
            return float(torch.cuda.mem_get_info()[1])
        # MemAvailable is free memory and the page cache
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
        return float(re.findall(r"MemAvailable:\s+(\d+) kB", meminfo)[0]) * 1024

    def reset(self) -> None:
        """Start a new measurement."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            trim_memory()
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    @property
    def peak(self) -> float:
        """Peak since reset(), in bytes."""
        if self._cuda:
            torch.cuda.synchronize()
            return float(torch.cuda.max_memory_allocated())
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return float(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def find_batch_size(config: FindBatchSizeConfig) -> None:
    """Find the largest passes, show them, and write the budget to a file.

    Raises:
        InputError: not even one clip fits in memory.
    """
    folder = Path(config.run_dir)
    accelerator = build_accelerator(
        precision=config.precision, deterministic=config.deterministic, trackers=()
    )
    whisper = load_whisper(config.model.name, config.model.revision)
    shapes = largest_shapes(config.data, whisper, folder)
    module = prepare_training(whisper, config.model)
    engine = build_engine(accelerator, module, config.model, config.optim, print)
    memory = PeakMemory(accelerator.device)
    limit = memory.capacity * MEMORY_SHARE
    if config.gigabytes is not None:
        limit = config.gigabytes * 1e9
    batches = [fitting_batch(engine, shape, memory, limit) for shape in shapes]
    budget = pass_budget(batches)
    path = fit_path(folder, accelerator, whisper.model.config, config.model, config.optim)
    write_json(path, {**budget, "tried": [asdict(batch) for batch in batches]})
    console = Console(highlight=False)
    console.print(table(batches, limit))
    knobs = ", ".join(f"data.{key}={value}" for key, value in budget.items())
    kept = f"written to {path}, for runs that do not set data.max_seconds_per_forward"
    console.print(f"{knobs}\n{kept}")


def largest_shapes(config: DataConfig, whisper: Whisper, folder: Path) -> list[Shape]:
    """Return the largest batch of an update for some buckets of a corpus, and for 30 s.

    Args:
        config: of the corpus.
        whisper: counts the tokens of transcripts.
        folder: of a run; the cache of clip lengths is beside it.

    Raises:
        InputError: the corpus cannot be read.
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


def fitting_batch(engine: Engine, largest: Shape, memory: PeakMemory, limit: float) -> FittingBatch:
    """Find the largest number of rows that fits in memory.

    Args:
        engine: model and optimizer.
        largest: frames, tokens, and the largest number of rows to try.
        memory: measures the peak.
        limit: bytes.

    Raises:
        InputError: a single row does not fit.
    """
    measured: dict[int, tuple[float, float]] = {}

    def peak(rows: int) -> float:
        memory.reset()
        started = time.perf_counter()
        error = try_largest_pass(engine, largest._replace(rows=rows))
        # try_largest_pass() makes two passes
        measured[rows] = memory.peak / 1e9, (time.perf_counter() - started) / 2
        engine.free_memory()
        return memory.peak if error is None else math.inf

    rows = search(peak, limit, largest.rows)
    if rows == 0:
        raise InputError(
            f"one clip of {largest.frames / FRAMES_PER_SECOND:.0f} s needs more than the limit of "
            f"{limit / 1e9:.1f} GB: set model.gradient_checkpointing=true, or use a smaller model"
        )
    gigabytes, seconds = measured[rows]
    shape = largest._replace(rows=rows)
    return FittingBatch(shape=shape, most=largest.rows, gigabytes=gigabytes, took=seconds)


def search(peak: Callable[[int], float], limit: float, max_rows: int) -> int:
    """Return the largest number of rows whose peak memory is within a limit; 0 for none.

    Memory is almost linear in the number of rows, so the next trial is extrapolated from the last
    two. After LINEAR_TRIALS trials the range is bisected.

    Args:
        peak: returns the peak memory of a number of rows, inf if it ran out.
        limit: in the unit of peak.
        max_rows: the largest number of rows to try.
    """
    peaks: dict[int, float] = {}
    good, bad, guess = 0, max_rows + 1, 1
    while bad - good > 1:
        rows = min(max(guess, good + 1), bad - 1)
        peaks[rows] = peak(rows)
        good, bad = (rows, bad) if peaks[rows] <= limit else (good, rows)
        finite = sorted(row for row, value in peaks.items() if value < math.inf)[-2:]
        guess = 2 * rows if good else 1
        if len(peaks) >= LINEAR_TRIALS:
            guess = (good + bad) // 2
        elif len(finite) == 2 and peaks[finite[1]] > peaks[finite[0]]:
            slope = (peaks[finite[1]] - peaks[finite[0]]) / (finite[1] - finite[0])
            guess = finite[1] + int((limit - peaks[finite[1]]) / slope)
    return good


def table(batches: Sequence[FittingBatch], limit: float) -> Table:
    """Return the table for the console, one row for each length."""
    shown = Table(title=f"largest passes within {limit / 1e9:.1f} GB", title_justify="left")
    for column in ("seconds", "tokens", "rows", "padded audio, s", "GB", "audio-s/s"):
        shown.add_column(column, justify="right")
    for batch in batches:
        shape = batch.shape
        shown.add_row(
            f"{shape.frames / FRAMES_PER_SECOND:.2f}",
            str(shape.tokens),
            f"{shape.rows}{'' if shape.rows < batch.most else ', all of an update'}",
            f"{shape.seconds:.0f}",
            f"{batch.gigabytes:.2f}",
            f"{shape.seconds / batch.took:.0f}",
        )
    return shown
