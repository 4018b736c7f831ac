"""Bootstrap confidence intervals of error rates, and paired differences of two models.

Utterances are resampled with replacement thousands of times (Bisani and Ney, 2004). Utterances of
one speaker are correlated, so with enough known speakers whole speakers are resampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_RESAMPLES = 10_000
MIN_RESAMPLES = 1_000  # an end of the interval then varies by 4 % of its half width
MAX_DRAWS = 10_000_000  # resamples × groups: 0.5 s
DRAWS_IN_MEMORY = 1_000_000
MIN_SPEAKERS = 10  # with fewer, resampling speakers gives intervals that are far too narrow
LEVEL = 0.95
SEED = 0  # fixed: equal counts give equal intervals

Counts = NDArray[np.int64]
Speakers = Sequence[str | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A 95 % interval, and what was resampled."""

    low: float
    high: float
    drawn: str  # utterances or speakers

    def to_json(self) -> dict[str, Any]:
        """Return the entries of scores.json beside a rate."""
        return {"interval": [self.low, self.high], "bootstrap": self.drawn}


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The error rates of two models A and B on the same utterances, and their difference."""

    rate_a: float  # a fraction
    rate_b: float
    interval: Interval | None  # of B minus A; None for a single utterance
    better: int  # utterances in which B has fewer edits
    worse: int
    equal: int
    chance: float  # share of resamples in which B's error rate is lower; ties count half

    @property
    def change(self) -> float:
        """B minus A: below 0 if B is better."""
        return self.rate_b - self.rate_a

    @property
    def significant(self) -> bool:
        """Whether 0 is outside the interval."""
        return self.interval is not None and not self.interval.low <= 0 <= self.interval.high

    @property
    def verdict(self) -> str:
        """The result of the comparison in a sentence."""
        change = f"{100 * self.change:+.1f} points"
        if self.interval is not None:
            low, high = 100 * self.interval.low, 100 * self.interval.high
            change += f" ({low:+.1f} to {high:+.1f})"
        if not self.significant:
            return f"no difference can be shown: {change}"
        return f"B is {'better' if self.change < 0 else 'worse'}: {change}"

    def to_json(self) -> dict[str, Any]:
        """Return the entries of compare.json."""
        none = {"interval": None, "bootstrap": None}
        return {
            "a": self.rate_a,
            "b": self.rate_b,
            "difference": self.change,
            **(self.interval.to_json() if self.interval else none),
            "better": self.better,
            "worse": self.worse,
            "equal": self.equal,
            "chance_b_is_better": self.chance,
            "verdict": self.verdict,
        }


def percent(rate: float, interval: Interval | None = None) -> str:
    """Format a rate and its interval: 4.51 % (3.2 to 6.0)."""
    text = f"{100 * rate:.2f} %"
    if interval is None:
        return text
    return f"{text} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def saved_percent(saved: dict[str, Any]) -> str:
    """Format a rate of scores.json and its interval, as percent() does."""
    low, high = saved.get("interval") or (None, None)
    if low is None or high is None:
        return percent(saved["rate"])
    return percent(saved["rate"], Interval(low=low, high=high, drawn=saved["bootstrap"]))


def bootstrap_intervals(edits: Counts, units: Counts, speakers: Speakers) -> list[Interval] | None:
    """Return the intervals of several error rates over the same utterances.

    Args:
        edits: of each utterance. Shape: (utterances, metrics).
        units: of each utterance's reference. Shape: (utterances, metrics).
        speakers: of each utterance; None where unknown.

    Returns:
        One interval for each column, or None for fewer than two utterances.
    """
    if len(edits) < 2:
        return None
    groups, drawn = _groups(speakers)
    rates = _rates(_resampled_sums(np.concatenate([edits, units], axis=1), groups))
    low, high = np.quantile(rates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [
        Interval(low=float(a), high=float(b), drawn=drawn) for a, b in zip(low, high, strict=True)
    ]


def paired_bootstrap(
    edits_a: Counts, edits_b: Counts, units: Counts, speakers: Speakers
) -> Difference:
    """Compare two models on the same utterances; a resample holds the same utterances for both.

    Args:
        edits_a: edits of A in each utterance. Shape: (utterances,).
        edits_b: edits of B. Shape: (utterances,).
        units: of the references, which both share. Shape: (utterances,).
        speakers: of each utterance; None where unknown.
    """
    total = max(1, int(units.sum()))
    interval, chance = None, 0.5
    if len(units) > 1:
        groups, drawn = _groups(speakers)
        sums = _resampled_sums(np.stack([edits_b - edits_a, units], axis=1), groups)
        changes = _rates(sums)[:, 0]
        low, high = np.quantile(changes, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        interval = Interval(low=float(low), high=float(high), drawn=drawn)
        chance = float(np.mean(changes < 0) + np.mean(changes == 0) / 2)
    return Difference(
        rate_a=int(edits_a.sum()) / total,
        rate_b=int(edits_b.sum()) / total,
        interval=interval,
        better=int((edits_b < edits_a).sum()),
        worse=int((edits_b > edits_a).sum()),
        equal=int((edits_b == edits_a).sum()),
        chance=chance,
    )


def _groups(speakers: Speakers) -> tuple[NDArray[np.int64], str]:
    """Return the group index of each utterance, and what a group is: utterances or speakers."""
    if len({speaker for speaker in speakers if speaker}) < MIN_SPEAKERS:
        return np.arange(len(speakers)), "utterances"
    numbers: dict[str | int, int] = {}
    # an utterance of an unknown speaker is a group of its own
    keys = (speaker or place for place, speaker in enumerate(speakers))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys]), "speakers"


def _resampled_sums(columns: Counts, groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the sums of each column in each resample. Shape: (resamples, columns)."""
    count = int(groups.max()) + 1
    sums = np.zeros((count, columns.shape[1]))
    np.add.at(sums, groups, columns)
    resamples = min(MAX_RESAMPLES, max(MIN_RESAMPLES, MAX_DRAWS // count))
    rng, step = np.random.default_rng(SEED), max(1, DRAWS_IN_MEMORY // count)
    chunks = []
    for begin in range(0, resamples, step):
        rows = min(step, resamples - begin)
        picked = rng.integers(count, size=(rows, count), dtype=np.int32)
        picked += np.arange(rows, dtype=np.int32)[:, None] * count
        times = np.bincount(picked.ravel(), minlength=rows * count).reshape(rows, count)
        chunks.append(times.astype(np.float64) @ sums)
    return np.concatenate(chunks)


def _rates(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide the first half of the columns by the second; 0 without units."""
    edits, units = np.split(sums, 2, axis=1)
    return np.divide(edits, units, out=np.zeros_like(edits), where=units > 0)
