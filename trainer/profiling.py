"""Where an update's time goes: a torch.profiler trace of a few, and a table of their phases."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from torch.profiler import profile, schedule

from data.utterance import Batch

PHASES = ("data wait", "forward", "backward", "optimizer")
SKIPPED, WARM_UP, TRACED = 2, 1, 5  # updates


class NoProfile:
    """Stands in where nobody asked for a profile."""

    def step(self, batches: Sequence[Batch]) -> None:
        """Do nothing."""


class Profile:
    """Traces updates 4 to 8 of a start into profile/trace.json, and says where time went."""

    def __init__(self, folder: Path, say: Callable[[Any], None]) -> None:
        """Start at once.

        Args:
            folder: the run's.
            say: prints the table.
        """
        self.trace = folder / "profile" / "trace.json"
        self.say = say
        self.updates = 0
        self.work: Counter[str] = Counter()  # seconds that workers spent, by stage
        self.profiler = profile(
            schedule=schedule(wait=SKIPPED, warmup=WARM_UP, active=TRACED, repeat=1),
            on_trace_ready=self._finish,
        )
        self.profiler.start()

    def step(self, batches: Sequence[Batch]) -> None:
        """Count an update."""
        self.updates += 1
        if SKIPPED + WARM_UP < self.updates <= SKIPPED + WARM_UP + TRACED:
            for batch in batches:
                self.work.update(batch.work)
        self.profiler.step()

    def _finish(self, profiler: Any) -> None:
        self.trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.trace))
        self.say(phase_table(profiler.key_averages(), self.work))
        self.say(f"trace of {TRACED} updates: {self.trace} (open it at ui.perfetto.dev)")


def phase_table(averages: Any, work: Counter[str]) -> Table:
    """Return the time an update spends in each phase, and what workers do meanwhile."""
    milliseconds = {
        event.key: max(event.cpu_time_total, event.device_time_total) / 1000 / TRACED
        for event in averages
        if event.key in PHASES
    }
    total = sum(milliseconds.values()) or 1.0
    table = Table(
        "phase", "ms an update", "share", title=f"where {TRACED} updates spent their time"
    )
    for name in PHASES:
        spent = milliseconds.get(name, 0.0)
        table.add_row(name, f"{spent:.1f}", f"{spent / total:.1%}")
    for name, seconds in work.items():
        table.add_row(f"{name}, in the workers", f"{1000 * seconds / TRACED:.1f}", "meanwhile")
    return table
