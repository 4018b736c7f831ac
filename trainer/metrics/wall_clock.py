"""WallClock: the wall time of a run by part: training, evaluation, waiting for data, saving."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Part = Literal["evaluation", "saving", "waiting"]


class WallClock:
    """Measures the wall time of a start by part; the rest is training.

    It is not saved in checkpoints: a resumed run starts at 0.
    """

    def __init__(self) -> None:
        """Start the clock."""
        self.start_step = 0  # updates made before this start
        self._started = time.perf_counter()
        self._seconds: dict[Part, float] = {"evaluation": 0.0, "waiting": 0.0, "saving": 0.0}

    @contextmanager
    def measure(self, part: Part) -> Iterator[None]:
        """Add the time of the body to a part."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] += time.perf_counter() - started

    @property
    def seconds(self) -> float:
        """Return the wall time so far."""
        return time.perf_counter() - self._started

    def seconds_of(self, part: Part) -> float:
        """Return the wall time of a part."""
        return self._seconds[part]

    def shares(self) -> dict[str, float]:
        """Return the share of each part of the wall time so far, by metric name."""
        wall = max(self.seconds, 1e-9)
        shares = {f"time/{part}_share": seconds / wall for part, seconds in self._seconds.items()}
        return {"time/training_share": 1 - sum(shares.values()), **shares}

    def summary(self) -> str:
        """Format the shares in a line."""
        training, evaluation, waiting, saving = self.shares().values()
        return (
            f"{training:.0%} training, {evaluation:.0%} evaluation, "
            f"{waiting:.0%} waiting for data, {saving:.0%} saving"
        )
