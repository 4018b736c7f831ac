"""Heartbeat: checks for stop requests and feeds the watchdog between forward passes."""

import time
from collections.abc import Iterator, Sequence

from accelerate import Accelerator

from data.batch import Batch
from trainer.distributed.collectives import sum_over_processes
from trainer.process.signals import Stopped, StopSignal
from trainer.process.watchdog import Watchdog
from trainer.state import Totals

SLOW_SECONDS = 20.0  # torchrun kills 30 s after SIGTERM; an update and a save must take less


class Heartbeat:
    """Stop requests and the stall watchdog; all processes stop at the same point."""

    def __init__(self, accelerator: Accelerator, stop: StopSignal, watchdog: Watchdog) -> None:
        """Take the other processes, this process's stop signal and its watchdog."""
        self.accelerator = accelerator
        self._stop = stop
        self._watchdog = watchdog
        self._update_started = 0.0
        self._update_seconds = 0.0
        self._slow = False  # an update is slow on some process: it may stop between its passes
        self.save_seconds = 0.0  # duration of the last save

    def begin_update(self, batches: Sequence[Batch], dropped: int) -> Totals:
        """Begin an update; return its counts, summed over all processes by one all-reduce.

        Args:
            batches: this process's forward passes.
            dropped: clips that failed on this process.

        Raises:
            Stopped: a process was asked to stop.
        """
        self._watchdog.pause()  # waiting for other processes is not a stall of this one
        slow = self._update_seconds + self.save_seconds > SLOW_SECONDS
        mine = [*Totals.of(batches, dropped), self._stop.requested, slow]
        tokens, seconds, dropped_by_all, stop, slow_by_all = sum_over_processes(
            self.accelerator, mine
        )
        if stop:
            raise Stopped
        self._slow = slow_by_all > 0
        self._watchdog.feed(self._watchdog.first_seconds)  # until the first pass begins
        self._update_started = time.monotonic()
        return Totals(int(tokens), seconds, int(dropped_by_all))

    def watch(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """Yield the passes of an update, and feed the watchdog before each.

        A stop request abandons a slow update, which has not changed a weight yet.

        Raises:
            Stopped: as begin_update().
        """
        for batch in batches:
            if self._slow:
                self._raise_if_stopped()
            self._watchdog.feed()
            yield batch

    def end_update(self) -> None:
        """End an update, and pause the watchdog."""
        self._update_seconds = time.monotonic() - self._update_started
        self.pause_watchdog()

    def pause_watchdog(self) -> None:
        """Pause the watchdog until the next heartbeat, before work of unknown length."""
        self._watchdog.pause()

    def beat(self) -> None:
        """Begin a batch of an evaluation. All processes must call this equally often.

        Raises:
            Stopped: as begin_update().
        """
        self._raise_if_stopped()
        self.show_progress()

    def show_progress(self) -> None:
        """Show progress within a batch of an evaluation, on this process only."""
        self._watchdog.feed(self._watchdog.first_seconds, "an evaluation")

    def _raise_if_stopped(self) -> None:
        self._watchdog.pause()
        (requests,) = sum_over_processes(self.accelerator, [float(self._stop.requested)])
        if requests:
            raise Stopped
