"""Heartbeats between passes: requests to stop take effect there; missing ones mean a stall."""

import time
from collections.abc import Iterator, Sequence

from accelerate import Accelerator

from data.batch import Batch
from trainer.distributed.collectives import add_up
from trainer.process.signals import Stopped, StopSignal
from trainer.process.watchdog import Watchdog
from trainer.state import Totals

SLOW_SECONDS = 20.0  # torchrun kills 30 s after it was asked; a checkpoint has to fit in as well


class Heartbeat:
    """Stop requests and the stall watchdog; every process comes to the same decision."""

    def __init__(self, accelerator: Accelerator, stop: StopSignal, watchdog: Watchdog) -> None:
        """Take who else has to agree, who asks to stop, and who notices a stall."""
        self.accelerator = accelerator
        self._stop = stop
        self._watchdog = watchdog
        self._began = 0.0
        self._update_seconds = 0.0
        self._slow = False  # an update takes long on some process: it may end between its passes
        self.save_seconds = 0.0  # the last checkpoint took

    def begin(self, batches: Sequence[Batch], dropped: int) -> Totals:
        """Begin an update; return what it holds on all processes together, by one all-reduce.

        Args:
            batches: this process's passes.
            dropped: clips that failed on this process.

        Raises:
            Stopped: a process was asked to stop.
        """
        self._watchdog.rest()  # to wait for the others is no stall of this process
        slow = self._update_seconds + self.save_seconds > SLOW_SECONDS
        mine = [*Totals.of(batches, dropped), self._stop.asked, slow]
        tokens, seconds, dropped_by_all, stop, slow_by_all = add_up(self.accelerator, mine)
        if stop:
            raise Stopped
        self._slow = slow_by_all > 0
        self._watchdog.feed(self._watchdog.first_seconds)  # before a pass nothing was measured
        self._began = time.monotonic()
        return Totals(int(tokens), seconds, int(dropped_by_all))

    def passes(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """Yield an update's passes. A slow update is given up for a stop: no weight has moved yet.

        Raises:
            Stopped: as begin().
        """
        for batch in batches:
            if self._slow:
                self._raise_if_stopped()
            self._watchdog.feed()
            yield batch

    def end(self) -> None:
        """End an update; what follows may take any time."""
        self._update_seconds = time.monotonic() - self._began
        self.pause_watchdog()

    def pause_watchdog(self) -> None:
        """Pause the stall watchdog until the next beat: what follows may take any time."""
        self._watchdog.rest()

    def beat(self) -> None:
        """Mark a batch of an evaluation: every process calls this as often.

        Raises:
            Stopped: as begin().
        """
        self._raise_if_stopped()
        self.show_progress()

    def show_progress(self) -> None:
        """Mark progress within a batch of an evaluation; the other processes are not asked."""
        self._watchdog.feed(self._watchdog.first_seconds, "an evaluation")

    def _raise_if_stopped(self) -> None:
        self._watchdog.rest()
        (asked,) = add_up(self.accelerator, [float(self._stop.asked)])
        if asked:
            raise Stopped
