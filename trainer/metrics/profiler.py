"""Where an update's time goes, and what a person could change about it."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch.profiler import profile, schedule

from data.batch import Batch
from data.log_mel import FRAMES_PER_SECOND
from trainer.metrics.flops import Peak, WhisperFlops
from trainer.metrics.phase_time import WAIT, phase_milliseconds

SKIPPED, WARM_UP, TRACED = 2, 1, 5  # updates
MEASURED = 40  # updates after them, without the tracer, which slows them down
LENGTHS = 6  # groups of updates of like length in the table
PATIENCE = 0.02  # share of the time that may be spent on waiting for data
PADDING = 0.05  # share of the encoder's positions that may be padding
LEAST_SECONDS = 60.0  # of padded audio in a pass, for a GPU to have enough to do


class NoProfile:
    """Stands in where nobody asked for a profile."""

    def step(self, batches: Sequence[Batch]) -> None:
        """Do nothing."""

    def paused(self) -> nullcontext[None]:
        """Do nothing."""
        return nullcontext()

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What one update was made of, and took."""

    seconds: float  # of time
    clips: int
    audio: float  # seconds of real audio
    longest: float  # seconds that its longest row is padded to
    padded: float  # seconds of padded audio
    largest: float  # the same, of the largest pass
    useful: float  # FLOPs that the clips at their own length need
    made: float  # FLOPs of what was computed, padding and recomputing included
    gigabytes: float  # peak of the GPU's memory; 0 on a CPU


class Profile:
    """Traces updates 4 to 8 of a start, measures the next 40, and says where time went."""

    def __init__(
        self, folder: Path, print_fn: Callable[[Any], None], flops: WhisperFlops, peak: Peak
    ) -> None:
        """Start at once.

        Args:
            folder: the run's.
            print_fn: prints tables and sentences.
            flops: the model's arithmetic.
            peak: the device's.
        """
        self.trace = folder / "profile" / "trace.json"
        self.print_fn, self.flops, self.peak = print_fn, flops, peak
        self.updates = 0
        self.measured: list[Update] = []
        self.work: Counter[str] = Counter()  # seconds that workers spent, by stage
        self.waited = 0.0  # share of the traced time that was spent on waiting for data
        self.began = time.perf_counter()
        self.profiler = profile(
            schedule=schedule(wait=SKIPPED, warmup=WARM_UP, active=TRACED, repeat=1),
            on_trace_ready=self._traced,
            acc_events=True,  # of one cycle; without it torch 2.11 warns that they are cleared
        )
        self.profiler.start()

    def step(self, batches: Sequence[Batch]) -> None:
        """Count an update."""
        self.updates += 1
        traced = SKIPPED + WARM_UP + TRACED
        if SKIPPED + WARM_UP < self.updates <= traced:
            for batch in batches:
                self.work.update(batch.worker_seconds)
        if self.updates <= traced:
            self.profiler.step()
        elif self.updates <= traced + MEASURED:
            self.measured.append(self._measure(batches))
            if self.updates == traced + MEASURED:
                self.close()
        self.began = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave time out: evaluation and saving are no part of an update."""
        started = time.perf_counter()
        yield
        self.began += time.perf_counter() - started

    def close(self) -> None:
        """Say what was measured, once."""
        if self.measured:
            self.print_fn(length_table(self.measured, self.peak))
            for sentence in advice(self.measured, self.waited, self.peak):
                self.print_fn(sentence)
        self.measured = []

    def _measure(self, batches: Sequence[Batch]) -> Update:
        gigabytes = 0.0
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            gigabytes = torch.cuda.max_memory_allocated() / 1e9
            torch.cuda.reset_peak_memory_stats()
        clips = [pair for b in batches for pair in zip(b.seconds, b.tokens, strict=True) if pair[1]]
        shapes = [batch.shape for batch in batches]
        rows = [(s.frames / FRAMES_PER_SECOND, s.tokens) for s in shapes for _ in range(s.rows)]
        return Update(
            seconds=time.perf_counter() - self.began,
            clips=len(clips),
            audio=sum(seconds for seconds, _ in clips),
            longest=max(seconds for seconds, _ in rows),
            padded=sum(seconds for seconds, _ in rows),
            largest=max(shape.seconds for shape in shapes),
            useful=self.flops.train(clips),
            made=self.flops.computed(rows),
            gigabytes=gigabytes,
        )

    def _traced(self, profiler: Any) -> None:
        self.trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.trace))
        phases = {
            name: spent / TRACED for name, spent in phase_milliseconds(profiler.events()).items()
        }
        self.waited = phases[WAIT] / (sum(phases.values()) or 1.0)
        self.print_fn(phase_table(phases, self.work))
        self.print_fn(f"trace of {TRACED} updates: {self.trace} (open it at ui.perfetto.dev)")


def phase_table(milliseconds: dict[str, float], work: Counter[str]) -> Table:
    """Return the time an update spends in each phase, and what workers do meanwhile."""
    total = sum(milliseconds.values()) or 1.0
    table = Table(
        "phase", "ms an update", "share", title=f"where {TRACED} updates spent their time"
    )
    for name, spent in milliseconds.items():
        table.add_row(name, f"{spent:.1f}", f"{spent / total:.1%}")
    for name, seconds in work.items():
        table.add_row(f"{name}, in the workers", f"{1000 * seconds / TRACED:.1f}", "meanwhile")
    return table


def length_table(updates: Sequence[Update], peak: Peak) -> Table:
    """Return what updates of each length took: the slowest ones, and those that fill the memory."""
    ordered = sorted(updates, key=lambda update: update.longest)
    cuts = [len(ordered) * i // LENGTHS for i in range(LENGTHS + 1)]
    groups = [ordered[a:b] for a, b in pairwise(cuts) if b > a]
    table = Table(
        title=f"{len(updates)} updates by length; all of them in the last line",
        caption="MFU counts what the clips need at their own length, HFU all that was computed",
        caption_justify="left",
    )
    for column in ("padded to, s", "clips", "ms", "audio-s/s", "padding", "MFU", "HFU", "GB"):
        table.add_column(column, justify="right")
    for group in [*groups, ordered]:
        seconds, audio = sum(u.seconds for u in group), sum(u.audio for u in group)
        gigabytes = max(u.gigabytes for u in group)
        useful, made = sum(u.useful for u in group), sum(u.made for u in group)
        shares = peak.shares(useful / seconds, made / seconds)
        table.add_row(
            f"{group[0].longest:.1f} to {group[-1].longest:.1f}",
            f"{sum(u.clips for u in group) / len(group):.1f}",
            f"{1000 * seconds / len(group):.0f}",
            f"{audio / seconds:.1f}",
            f"{1 - audio / sum(u.padded for u in group):.0%}",
            *(f"{share:.1%}" if shares else "?" for share in shares or (0.0, 0.0)),
            f"{gigabytes:.1f}" if gigabytes else "",
            end_section=group is groups[-1],
        )
    return table


def advice(updates: Sequence[Update], waited: float, peak: Peak) -> list[str]:
    """Return what to change, the dearest first; nothing where there is nothing to say."""
    seconds, padded = sum(u.seconds for u in updates), sum(u.padded for u in updates)
    padding = 1 - sum(u.audio for u in updates) / padded
    said = []
    if waited > PATIENCE:
        said.append((waited, f"{waited:.0%} of the time is spent on waiting: raise data.workers"))
    if padding > PADDING:
        told = f"{padding:.0%} of what the encoder hears is padding: data.pad=bucket has least"
        said.append((padding, told))
    small = max(u.largest for u in updates) < LEAST_SECONDS
    if small and torch.cuda.is_available():
        idle = 1 - sum(u.made for u in updates) / seconds / peak.per_second
        told = "passes are too small for a GPU: raise data.update_seconds, or data.max_padding"
        said.append((idle, told))
    return [f"advice: {told}" for _, told in sorted(said, reverse=True)]
