"""Where a run's wall time goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Part = Literal["evaluation", "saving", "waiting"]


class WallClock:
    """Measures the wall time of one start by part: what is in no other part is training.

    No checkpoint holds it: a run that is resumed begins at 0.
    """

    def __init__(self) -> None:
        """Begin now."""
        self.since = 0  # the update that stood when this start began
        self._began = time.perf_counter()
        self._spent: dict[Part, float] = {"evaluation": 0.0, "waiting": 0.0, "saving": 0.0}

    @contextmanager
    def on(self, part: Part) -> Iterator[None]:
        """Add the time of the body to a part."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._spent[part] += time.perf_counter() - started

    @property
    def seconds(self) -> float:
        """Return the wall time so far."""
        return time.perf_counter() - self._began

    def spent(self, part: Part) -> float:
        """Return the seconds of a part."""
        return self._spent[part]

    def shares(self) -> dict[str, float]:
        """Return the shares of all time so far, as metrics."""
        wall = max(self.seconds, 1e-9)
        shares = {f"time/{part}_share": seconds / wall for part, seconds in self._spent.items()}
        return {"time/training_share": 1 - sum(shares.values()), **shares}

    def summary(self) -> str:
        """Return them in words."""
        training, evaluation, waiting, saving = self.shares().values()
        return (
            f"{training:.0%} training, {evaluation:.0%} evaluation, "
            f"{waiting:.0%} waiting for data, {saving:.0%} saving"
        )
