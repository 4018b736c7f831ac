"""How sure a figure is: what it would have been, had other utterances or speakers been drawn.

Utterances are drawn again from those at hand, as many as there are, thousands of times (Bisani and
Ney, 2004). One speaker's are alike, so where enough speakers are known whole speakers are drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000  # at most
FEWEST_DRAWS = 1_000  # move an end of the interval by 4 % of its half width
DRAWN = 10_000_000  # draws times groups, at most: 0.5 s
HELD = 1_000_000  # of them in memory at a time
FEWEST_SPEAKERS = 10  # with fewer, drawing speakers gives intervals that are far too narrow
LEVEL = 0.95
SEED = 0  # the same figures give the same interval

Counts = NDArray[np.int64]
Speakers = Sequence[str | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Where 95 % of the draws lie, and what was drawn."""

    low: float
    high: float
    drawn: str  # utterances or speakers

    def to_json(self) -> dict[str, Any]:
        """Return what stands beside a rate in scores.json."""
        return {"interval": [self.low, self.high], "bootstrap": self.drawn}


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What two models make of the same utterances: A, and B less A."""

    first: float  # error rate of A, a fraction
    second: float  # of B
    interval: Interval | None  # of B less A; None: of a single utterance nothing can be said
    better: int  # utterances in which B makes fewer edits
    worse: int
    equal: int
    chance: float  # share of draws in which B's error is the lower one; ties count half

    @property
    def change(self) -> float:
        """Return B less A: below 0 where B is better."""
        return self.second - self.first

    @property
    def sure(self) -> bool:
        """Tell whether 0 is outside the interval."""
        return self.interval is not None and not self.interval.low <= 0 <= self.interval.high

    @property
    def verdict(self) -> str:
        """Return what can be said, in a sentence."""
        told = f"{100 * self.change:+.1f} points"
        if self.interval is not None:
            low, high = 100 * self.interval.low, 100 * self.interval.high
            told += f" ({low:+.1f} to {high:+.1f})"
        if not self.sure:
            return f"no difference can be shown: {told}"
        return f"B is {'better' if self.change < 0 else 'worse'}: {told}"

    def to_json(self) -> dict[str, Any]:
        """Return what compare.json holds of it."""
        drawn = self.interval.to_json() if self.interval else {"interval": None, "bootstrap": None}
        return {
            "a": self.first,
            "b": self.second,
            "difference": self.change,
            **drawn,
            "better": self.better,
            "worse": self.worse,
            "equal": self.equal,
            "chance_b_is_better": self.chance,
            "verdict": self.verdict,
        }


def percent(rate: float, interval: Interval | None = None) -> str:
    """Return a rate and its interval: 4.51 % (3.2 to 6.0)."""
    told = f"{100 * rate:.2f} %"
    if interval is None:
        return told
    return f"{told} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def saved_percent(figure: dict[str, Any]) -> str:
    """Return the same of a figure in scores.json."""
    low, high = figure.get("interval") or (None, None)
    if low is None or high is None:
        return percent(figure["rate"])
    return percent(figure["rate"], Interval(low=low, high=high, drawn=figure["bootstrap"]))


def intervals(edits: Counts, units: Counts, speakers: Speakers) -> list[Interval] | None:
    """Return the interval of each of several error rates over the same utterances.

    Args:
        edits: of each utterance. Shape: (utterances, figures).
        units: of each utterance's reference. Shape: (utterances, figures).
        speakers: of each utterance; None where unknown.

    Returns:
        None where there are fewer than two utterances, of which nothing can be said.
    """
    if len(edits) < 2:
        return None
    groups, drawn = _groups(speakers)
    rates = _rates(_drawn(np.concatenate([edits, units], axis=1), groups))
    low, high = np.quantile(rates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [
        Interval(low=float(a), high=float(b), drawn=drawn) for a, b in zip(low, high, strict=True)
    ]


def paired(first: Counts, second: Counts, units: Counts, speakers: Speakers) -> Difference:
    """Compare two models on the same utterances: both are drawn together.

    Args:
        first: edits of A in each utterance. Shape: (utterances,).
        second: edits of B. Shape: (utterances,).
        units: of the references, which both share. Shape: (utterances,).
        speakers: of each utterance; None where unknown.
    """
    total = max(1, int(units.sum()))
    interval, chance = None, 0.5
    if len(units) > 1:
        groups, drawn = _groups(speakers)
        sums = _drawn(np.stack([second - first, units], axis=1), groups)
        changes = _rates(sums)[:, 0]
        low, high = np.quantile(changes, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        interval = Interval(low=float(low), high=float(high), drawn=drawn)
        chance = float(np.mean(changes < 0) + np.mean(changes == 0) / 2)
    return Difference(
        first=int(first.sum()) / total,
        second=int(second.sum()) / total,
        interval=interval,
        better=int((second < first).sum()),
        worse=int((second > first).sum()),
        equal=int((second == first).sum()),
        chance=chance,
    )


def _groups(speakers: Speakers) -> tuple[NDArray[np.int64], str]:
    """Return which group each utterance is drawn with, and what the groups are."""
    if len({speaker for speaker in speakers if speaker}) < FEWEST_SPEAKERS:
        return np.arange(len(speakers)), "utterances"
    numbers: dict[str | int, int] = {}
    # one whose speaker is unknown is drawn alone
    keys = (speaker or place for place, speaker in enumerate(speakers))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys]), "speakers"


def _drawn(columns: Counts, groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the sums of each column in each draw. Shape: (draws, columns)."""
    count = int(groups.max()) + 1
    sums = np.zeros((count, columns.shape[1]))
    np.add.at(sums, groups, columns)
    draws = min(DRAWS, max(FEWEST_DRAWS, DRAWN // count))
    rng, step = np.random.default_rng(SEED), max(1, HELD // count)
    found = []
    for begin in range(0, draws, step):
        rows = min(step, draws - begin)
        picked = rng.integers(count, size=(rows, count), dtype=np.int32)
        picked += np.arange(rows, dtype=np.int32)[:, None] * count
        times = np.bincount(picked.ravel(), minlength=rows * count).reshape(rows, count)
        found.append(times.astype(np.float64) @ sums)
    return np.concatenate(found)


def _rates(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide the first half of the columns by the second; what has no units is no error."""
    edits, units = np.split(sums, 2, axis=1)
    return np.divide(edits, units, out=np.zeros_like(edits), where=units > 0)
