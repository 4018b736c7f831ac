"""Beats between units of work: a stop is heeded there, and a stall is noticed by their absence."""

import time
from collections.abc import Iterator, Sequence

from accelerate import Accelerator

from data.batch import Batch
from trainer.distributed.collectives import add_up
from trainer.process.signals import Stopped, StopSignal
from trainer.process.watchdog import Watchdog
from trainer.step import Totals, gather_totals

SLOW_SECONDS = 20.0  # torchrun kills 30 s after it was asked; a checkpoint has to fit in as well


class Heartbeat:
    """What a run listens to while it works; the same decision falls on every process."""

    def __init__(self, accelerator: Accelerator, stop: StopSignal, watchdog: Watchdog) -> None:
        """Take who else has to agree, who asks to stop, and who notices a stall."""
        self.accelerator = accelerator
        self._stop = stop
        self._watchdog = watchdog
        self._began = 0.0
        self._update_seconds = 0.0
        self.save_seconds = 0.0  # the last checkpoint took

    def begin(self, batches: Sequence[Batch], dropped: int) -> Totals:
        """Begin an update: what all processes bring to it.

        Args:
            batches: this process's passes.
            dropped: clips that failed here.

        Raises:
            Stopped: one of them was asked to.
        """
        self._watchdog.rest()  # to wait for the others is no stall of this process
        slow = self._update_seconds + self.save_seconds > SLOW_SECONDS
        totals = gather_totals(
            self.accelerator, batches, dropped=dropped, stop=self._stop.asked, slow=slow
        )
        if totals.stop:
            raise Stopped
        self._watchdog.feed(self._watchdog.first_seconds)  # before a pass nothing was measured
        self._began = time.monotonic()
        return totals

    def passes(self, batches: Sequence[Batch], totals: Totals) -> Iterator[Batch]:
        """Yield an update's passes. A slow update is given up for a stop: no weight has moved yet.

        Raises:
            Stopped: as begin().
        """
        for batch in batches:
            if totals.slow:
                self._heed()
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
        self._heed()
        self.show_progress()

    def show_progress(self) -> None:
        """Mark progress within a batch of an evaluation; the other processes are not asked."""
        self._watchdog.feed(self._watchdog.first_seconds, "an evaluation")

    def _heed(self) -> None:
        self._watchdog.rest()
        (asked,) = add_up(self.accelerator, [float(self._stop.asked)])
        if asked:
            raise Stopped
