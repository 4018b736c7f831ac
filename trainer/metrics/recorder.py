"""Recorder: writes metrics to metrics.jsonl, Accelerate's trackers and the console."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from accelerate import Accelerator
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from data.atomic_files import append_jsonl, read_jsonl, write_jsonl
from data.errors import is_disk_error
from trainer.metrics.plan_check import PlanCheck, read_forecast
from trainer.metrics.trackers import Settings, start_trackers
from trainer.metrics.train_metrics import LogConfig

METRICS = "metrics.jsonl"
WIDTH = 100  # characters of a table if the output is not a terminal

# metric → its format in the console line, which fits into 100 columns
LINE = (
    ("train/loss", "loss {:.4f}"),
    ("train/lr", "lr {:.2e}"),
    ("speed/audio_seconds_per_second", "{:.1f} audio-s/s"),
    ("speed/data_wait", "wait {:.1%}"),
    ("speed/encoder_padding", "pad {:.0%}"),
    ("speed/mfu", "mfu {:.1%}"),
    ("memory/peak_gb", "{:.1f} GB"),
)


class RunConsole(Console):
    """A console that survives a broken pipe: Ctrl-C also stops a `tee` that reads the output."""

    def on_broken_pipe(self) -> None:
        """Stop printing; rich would exit."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Recorder:
    """Writes metrics, on the main process."""

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        """Create the console and the progress display.

        Args:
            folder: of the run.
            accelerator: logs to its trackers.
        """
        self.path = folder / METRICS
        self.unwritten: list[dict[str, float]] = []
        self.accelerator = accelerator
        self.console = RunConsole(highlight=False, soft_wrap=True)
        if not self.console.is_terminal:  # tables in a log file need not be narrow
            self.console.width = max(WIDTH, self.console.width)
        # one display for training and evaluation: two would overwrite each other
        self.progress = Progress(
            TextColumn("{task.description}"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[line]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("training, updates", total=None, line="")
        self.plan_check: PlanCheck | None = None
        self.tracked_step = 0  # the last step that was logged to trackers

    def begin(self, log: LogConfig, settings: Settings, *, step: int, steps: int) -> None:
        """Start the trackers, and delete metrics after a step.

        Args:
            log: names of the trackers.
            settings: of the run.
            step: updates made before.
            steps: updates of the whole run.
        """
        self.rewind(step)
        self.progress.update(self.task, total=steps)
        self.accelerator.trackers = start_trackers(self.path.parent, log, settings, step)

    def compare_with_plan(
        self, plan: Path, conditions: Mapping[str, Any], step: int, steps: int
    ) -> None:
        """Compare the speed with that of a plan, if there is one for the same conditions.

        Args:
            plan: file of the plan, which may not exist.
            conditions: of the run, as conditions() returns them.
            step: updates made before.
            steps: updates of the whole run.
        """
        forecast = read_forecast(plan)
        if forecast is None:
            return
        if difference := forecast.difference(conditions):
            self.print(f"the speed is not compared with {plan}: {difference}")
        else:
            self.plan_check = PlanCheck(
                forecast, step=step, steps=steps, processes=self.accelerator.num_processes
            )

    def __enter__(self) -> Self:
        """Start the progress display, if the output is a terminal."""
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the progress display."""
        self.progress.stop()

    def rewind(self, step: int) -> None:
        """Delete the metrics after a step, when training resumes from it."""
        self.unwritten = [row for row in self.unwritten if row["step"] <= step]
        # rows are not sorted, since the end of a run records the best step; they are few
        rows = list(read_jsonl(self.path)) if step and self.path.exists() else []
        write_jsonl(self.path, [row for row in rows if row["step"] <= step])
        self.tracked_step = step
        self.progress.update(self.task, completed=step)

    def advance(self, step: int) -> None:
        """Update the progress bar of training."""
        self.progress.update(self.task, completed=step)

    def track(self, rounds: range, label: str) -> Iterator[int]:
        """Yield the batches of an evaluation, with a progress bar below that of training."""
        task = self.progress.add_task(f"{label}, batches", total=len(rounds), line="")
        try:
            for number in rounds:
                yield number
                self.progress.advance(task)
        finally:
            self.progress.remove_task(task)

    @contextmanager
    def tolerate_disk_errors(self, what: str) -> Iterator[None]:
        """Turn errors of a full or broken disk into a warning that names what was not written."""
        try:
            yield
        except Exception as error:
            if not is_disk_error(error):
                raise
            self.print(f"WARNING: {what} could not be written ({error}): free some space")

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write metrics to the file, the trackers and the console; retry later on disk errors."""
        self.unwritten.append({"step": step, **metrics})
        with self.tolerate_disk_errors("metrics"):
            append_jsonl(self.path, self.unwritten)
            self.unwritten.clear()
            # the final evaluation is of the best model, which may be of an earlier step: tracking
            # servers drop values that are out of order
            self.tracked_step = max(self.tracked_step, step)
            self.accelerator.log(dict(metrics), step=self.tracked_step)
        parts = [form.format(metrics[name]) for name, form in LINE if name in metrics]
        if parts:
            self.progress.update(self.task, line="  ".join(parts[:3]))
            self.print(f"update {step:>6}  " + "  ".join(parts))
        if self.plan_check is not None and (message := self.plan_check.add(step, metrics)):
            self.print(message)

    def print(self, text: object) -> None:
        """Print a text or a table above the progress bar."""
        self.console.print(Text(text) if isinstance(text, str) else text)


class JsonlLog:
    """A JSON Lines file to append to; rows that a full disk rejects are written the next time.

    Only the main process may append: on NFS, lines of two machines would overwrite each other.
    """

    def __init__(self, path: Path, recorder: "Recorder | NullRecorder") -> None:
        """Store the path, and the recorder that prints warnings."""
        self.path = path
        self.unwritten: list[dict[str, Any]] = []
        self._recorder = recorder

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows, and those that could not be written before."""
        self.unwritten += rows
        with self._recorder.tolerate_disk_errors(self.path.name):
            append_jsonl(self.path, self.unwritten)
            self.unwritten.clear()


class NullRecorder:
    """Null object of the Recorder, for the other processes."""

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def begin(self, log: LogConfig, settings: Settings, *, step: int, steps: int) -> None:
        """Do nothing."""

    def compare_with_plan(
        self, plan: Path, conditions: Mapping[str, Any], step: int, steps: int
    ) -> None:
        """Do nothing."""

    def rewind(self, step: int) -> None:
        """Do nothing."""

    def advance(self, step: int) -> None:
        """Do nothing."""

    def track(self, rounds: range, label: str) -> Iterator[int]:
        """Yield the batches."""
        yield from rounds

    @contextmanager
    def tolerate_disk_errors(self, what: str) -> Iterator[None]:
        """Do nothing."""
        yield

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def print(self, text: object) -> None:
        """Do nothing."""
