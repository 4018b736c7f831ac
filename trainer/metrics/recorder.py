"""Where metrics go: metrics.jsonl, Accelerate's trackers, and a person's screen."""

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
from trainer.metrics.meter import LogConfig
from trainer.metrics.plan_check import PlanCheck, read_forecast
from trainer.metrics.trackers import Settings, begin_trackers

METRICS = "metrics.jsonl"
WIDTH = 100  # characters of a table where the output is not a terminal

# slash name → what the console line says; it fits in 100 columns
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
    """A console that training outlives: Ctrl-C ends the `tee` behind a pipe as well."""

    def on_broken_pipe(self) -> None:
        """Print nothing any more, where rich would end the process."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Recorder:
    """Writes on the main process."""

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        """Take the run's folder."""
        self.path = folder / METRICS
        self.unwritten: list[dict[str, float]] = []
        self.accelerator = accelerator
        self.console = RunConsole(highlight=False, soft_wrap=True)
        if not self.console.is_terminal:  # tables in a log need no folding
            self.console.width = max(WIDTH, self.console.width)
        # one display for all that runs: two would overwrite each other
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
        self.comparison: PlanCheck | None = None
        self.tracked = 0  # the last step that trackers were told

    def begin(self, log: LogConfig, settings: Settings, *, step: int, steps: int) -> None:
        """Continue a run's metrics after `step`."""
        self.rewind(step)
        self.progress.update(self.task, total=steps)
        self.accelerator.trackers = begin_trackers(self.path.parent, log, settings, step)

    def expect(self, plan: Path, of: Mapping[str, Any], step: int, steps: int) -> None:
        """Hold the run against its plan, if there is one.

        Args:
            plan: where it would be.
            of: the run's circumstances, which must be the plan's.
            step: updates made before.
            steps: updates to make in all.
        """
        forecast = read_forecast(plan)
        if forecast is None:
            return
        if told := forecast.difference(of):
            self.print(f"not compared with {plan}: {told}")
        else:
            self.comparison = PlanCheck(
                forecast, at=step, steps=steps, processes=self.accelerator.num_processes
            )

    def __enter__(self) -> Self:
        """Start the display; where the output is not a terminal there are plain lines instead."""
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the display and flush the trackers."""
        self.progress.stop()

    def rewind(self, step: int) -> None:
        """Forget what was written after an update: of a future that was given up."""
        self.unwritten = [row for row in self.unwritten if row["step"] <= step]
        # all rows are read: they are few, and not in order, since the end records the best update
        rows = list(read_jsonl(self.path)) if step and self.path.exists() else []
        write_jsonl(self.path, [row for row in rows if row["step"] <= step])
        self.tracked = step
        self.progress.update(self.task, completed=step)

    def advance(self, step: int) -> None:
        """Move the display on."""
        self.progress.update(self.task, completed=step)

    def track(self, rounds: range, label: str) -> Iterator[int]:
        """Yield the rounds of an evaluation; their bar stands below that of training."""
        task = self.progress.add_task(f"{label}, batches", total=len(rounds), line="")
        try:
            for number in rounds:
                yield number
                self.progress.advance(task)
        finally:
            self.progress.remove_task(task)

    @contextmanager
    def despite_disk(self, what: str) -> Iterator[None]:
        """Go on where the disk is full or broken, and say what was not written."""
        try:
            yield
        except Exception as error:
            if not is_disk_error(error):
                raise
            self.print(f"WARNING: {what} could not be written ({error}): free some space")

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one line everywhere; what a full disk refuses is kept for the next time."""
        self.unwritten.append({"step": step, **metrics})
        with self.despite_disk("metrics"):
            append_jsonl(self.path, self.unwritten)
            self.unwritten.clear()
            # the final evaluation is of the best model, of an update that lies behind: servers
            # drop what comes out of order
            self.tracked = max(self.tracked, step)
            self.accelerator.log(dict(metrics), step=self.tracked)
        parts = [form.format(metrics[name]) for name, form in LINE if name in metrics]
        if parts:
            self.progress.update(self.task, line="  ".join(parts[:3]))
            self.print(f"update {step:>6}  " + "  ".join(parts))
        if self.comparison is not None and (told := self.comparison.add(step, metrics)):
            self.print(told)

    def print(self, text: object) -> None:
        """Print a sentence, or a table, above the progress bar."""
        self.console.print(Text(text) if isinstance(text, str) else text)


class JsonlLog:
    """A JSON Lines file that outlives a full disk: rows that it refuses are kept for the next time.

    For the main process alone: of lines that two machines append to one file, NFS loses some.
    """

    def __init__(self, path: Path, recorder: "Recorder | NullRecorder") -> None:
        """Take the file, and what tells of a full disk."""
        self.path = path
        self.unwritten: list[dict[str, Any]] = []
        self._recorder = recorder

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows, and those that were refused before."""
        self.unwritten += rows
        with self._recorder.despite_disk(self.path.name):
            append_jsonl(self.path, self.unwritten)
            self.unwritten.clear()


class NullRecorder:
    """Stands in for the Recorder on the other processes."""

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def begin(self, log: LogConfig, settings: Settings, *, step: int, steps: int) -> None:
        """Do nothing."""

    def expect(self, plan: Path, of: Mapping[str, Any], step: int, steps: int) -> None:
        """Do nothing."""

    def rewind(self, step: int) -> None:
        """Do nothing."""

    def advance(self, step: int) -> None:
        """Do nothing."""

    def track(self, rounds: range, label: str) -> Iterator[int]:
        """Yield the rounds."""
        yield from rounds

    @contextmanager
    def despite_disk(self, what: str) -> Iterator[None]:
        """Do nothing."""
        yield

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def print(self, text: object) -> None:
        """Do nothing."""
