"""Where an update's time goes: a torch.profiler trace of a few, and a table of their phases."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table
from torch.profiler import ProfilerActivity, profile, schedule

PHASES = ("data wait", "to device", "forward", "backward", "optimizer")
SKIPPED, WARM_UP, TRACED = 2, 1, 5  # updates


class NoProfile:
    """Stands in where nobody asked for a profile."""

    def step(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


def start_profile(folder: Path, say: Callable[[Any], None]) -> Any:
    """Trace updates 4 to 8 of this start into folder/profile, and print where their time went.

    Args:
        folder: the run's.
        say: prints the table.
    """

    def finish(profiler: Any) -> None:
        trace = folder / "profile" / "trace.json"
        trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(trace))
        say(phase_table(profiler.key_averages()))
        say(f"trace of {TRACED} updates: {trace} (open it at ui.perfetto.dev)")

    profiler = profile(
        activities=None if _has_cuda() else [ProfilerActivity.CPU],
        schedule=schedule(wait=SKIPPED, warmup=WARM_UP, active=TRACED, repeat=1),
        on_trace_ready=finish,
    )
    profiler.start()
    return profiler


def phase_table(averages: Any) -> Table:
    """Return the time an update spends in each phase, and its share."""
    found = {event.key: event for event in averages if event.key in PHASES}
    milliseconds = {
        name: max(e.cpu_time_total, e.device_time_total) / 1000 / TRACED
        for name, e in found.items()
    }
    total = sum(milliseconds.values()) or 1.0
    table = Table(
        "phase", "ms an update", "share", title=f"where {TRACED} updates spent their time"
    )
    for name in PHASES:
        spent = milliseconds.get(name, 0.0)
        table.add_row(name, f"{spent:.1f}", f"{spent / total:.1%}")
    return table


def _has_cuda() -> bool:
    return ProfilerActivity.CUDA in _supported()


def _supported() -> set[Any]:
    from torch.profiler import supported_activities

    return set(supported_activities())
