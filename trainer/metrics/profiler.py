"""Profile: a trace of some updates, tables of time by phase and by length, and advice."""

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
from trainer.metrics.phase_time import (
    communication_milliseconds,
    phase_milliseconds,
    phase_table,
)

SKIPPED, WARM_UP, TRACED = 2, 1, 5  # updates
MEASURED = 40  # updates after the traced ones, without the profiler, which slows them down
WAIT_SHARE = "profile/data_wait"  # in metrics.jsonl
UNDERSCORES = str.maketrans(" -", "__")  # in names of metrics
NUM_GROUPS = 6  # rows of the table of updates by length
# advice is given …
MAX_WAIT = 0.02  # if waiting for data takes a larger share of the time
MAX_PADDING = 0.05  # if a larger share of the encoder's input is padding
MIN_SECONDS = 60.0  # if on a GPU no forward pass has as much padded audio


class NoProfile:
    """Null object for runs without a profile."""

    def step(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Do nothing."""
        return {}

    def paused(self) -> nullcontext[None]:
        """Do nothing."""
        return nullcontext()

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """Measurements of an update."""

    seconds: float  # wall time
    clips: int
    audio: float  # seconds, without padding
    longest: float  # padded seconds of the longest row
    padded: float  # seconds of padded audio
    largest: float  # seconds of padded audio in the largest forward pass
    model_flops: float  # of the clips at their own length
    hardware_flops: float  # with padding and recomputation
    gigabytes: float  # peak GPU memory; 0 on a CPU


class Profile:
    """Traces updates 4 to 8 of a start, measures the next 40, and prints tables and advice."""

    def __init__(
        self, trace: Path, print_fn: Callable[[Any], None], flops: WhisperFlops, peak: Peak
    ) -> None:
        """Start the profiler.

        Args:
            trace: the file that the trace is written to; each process needs its own.
            print_fn: prints tables and sentences.
            flops: of the model.
            peak: of the device.
        """
        self.trace, self.print_fn, self.flops, self.peak = trace, print_fn, flops, peak
        self.updates = 0
        self.measured: list[Update] = []
        self.worker_seconds: Counter[str] = Counter()  # by stage, during the traced updates
        self.shares: dict[str, float] = {}  # of the traced time, by phase; empty before
        self.started = time.perf_counter()  # of the current update
        self.profiler = profile(
            schedule=schedule(wait=SKIPPED, warmup=WARM_UP, active=TRACED, repeat=1),
            on_trace_ready=self._on_trace_ready,
            acc_events=True,  # without it torch 2.11 warns that events of earlier cycles are lost
        )
        self.profiler.start()

    def step(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Count an update; after the last traced one return the shares of the phases."""
        self.updates += 1
        traced = SKIPPED + WARM_UP + TRACED
        if SKIPPED + WARM_UP < self.updates <= traced:
            for batch in batches:
                self.worker_seconds.update(batch.worker_seconds)
        if self.updates <= traced:
            self.profiler.step()
        elif self.updates <= traced + MEASURED:
            self.measured.append(self._measure(batches))
            if self.updates == traced + MEASURED:
                self.close()
        self.started = time.perf_counter()
        return self.shares if self.updates == traced else {}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of the body: evaluation and saving are not part of an update."""
        started = time.perf_counter()
        yield
        self.started += time.perf_counter() - started

    def close(self) -> None:
        """Print the table and the advice, once."""
        if self.measured:
            self.print_fn(length_table(self.measured, self.peak))
            for line in advice(self.measured, self.shares[WAIT_SHARE], self.peak):
                self.print_fn(line)
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
            seconds=time.perf_counter() - self.started,
            clips=len(clips),
            audio=sum(seconds for seconds, _ in clips),
            longest=max(seconds for seconds, _ in rows),
            padded=sum(seconds for seconds, _ in rows),
            largest=max(shape.seconds for shape in shapes),
            model_flops=self.flops.train(clips),
            hardware_flops=self.flops.hardware(rows),
            gigabytes=gigabytes,
        )

    def _on_trace_ready(self, profiler: Any) -> None:
        self.trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.trace))
        events = profiler.events()
        phases, communication = phase_milliseconds(events), communication_milliseconds(events)
        total = sum(phases.values()) or 1.0
        spent = phases | {"communication": sum(communication.values())}
        self.shares = {
            f"profile/{name.translate(UNDERSCORES)}": time / total for name, time in spent.items()
        }
        self.print_fn(phase_table(phases, communication, self.worker_seconds, TRACED))
        self.print_fn(f"trace of {TRACED} updates: {self.trace} (open it at ui.perfetto.dev)")


def length_table(updates: Sequence[Update], peak: Peak) -> Table:
    """Return a table of updates by length; it shows which are slow, or fill the memory."""
    ordered = sorted(updates, key=lambda update: update.longest)
    cuts = [len(ordered) * i // NUM_GROUPS for i in range(NUM_GROUPS + 1)]
    groups = [ordered[a:b] for a, b in pairwise(cuts) if b > a]
    table = Table(
        title=f"{len(updates)} updates by length; the last row is all of them",
        caption="MFU: FLOPs of the clips at their own length. HFU: with padding and recomputation.",
        caption_justify="left",
    )
    for column in ("padded to, s", "clips", "ms", "audio-s/s", "padding", "MFU", "HFU", "GB"):
        table.add_column(column, justify="right")
    for group in [*groups, ordered]:
        seconds, audio = sum(u.seconds for u in group), sum(u.audio for u in group)
        gigabytes = max(u.gigabytes for u in group)
        model, hardware = sum(u.model_flops for u in group), sum(u.hardware_flops for u in group)
        shares = peak.utilization(model / seconds, hardware / seconds)
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


def advice(updates: Sequence[Update], wait_share: float, peak: Peak) -> list[str]:
    """Return which settings to change, sorted by the share of the time that they may save."""
    seconds, padded = sum(u.seconds for u in updates), sum(u.padded for u in updates)
    padding = 1 - sum(u.audio for u in updates) / padded
    messages = []
    if wait_share > MAX_WAIT:
        message = f"{wait_share:.0%} of the time is spent waiting for data: raise data.workers"
        messages.append((wait_share, message))
    if padding > MAX_PADDING:
        message = f"{padding:.0%} of the encoder's input is padding: data.pad=bucket has the least"
        messages.append((padding, message))
    small = max(u.largest for u in updates) < MIN_SECONDS
    if small and torch.cuda.is_available():
        idle = 1 - sum(u.hardware_flops for u in updates) / seconds / peak.per_second
        message = "forward passes are too small for a GPU: raise data.update_seconds or "
        messages.append((idle, message + "data.max_padding"))
    return [f"advice: {message}" for _, message in sorted(messages, reverse=True)]
