"""Error rates by clip length, corpus, language, gender, age, accent and speaker."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any, NamedTuple

from data.log_mel import CHUNK_SECONDS

Row = Mapping[str, Any]  # of utterances.jsonl
Pair = tuple[Row, int | None]  # a row, and its number of edits in an earlier evaluation
BINS = ((0, 2), (2, 5), (5, 10), (10, 20), (20, CHUNK_SECONDS))  # seconds
LENGTHS = (*(f"{low} to {high} s" for low, high in BINS), f"over {CHUNK_SECONDS} s")
KEYS = ("corpus", "language", "gender", "age", "accent", "speaker")  # of a row
UNKNOWN = "not known"
FEW = 10  # clips; the rate of fewer is not reliable
SHOWN = 10  # slices of one breakdown that are shown at first
Z = 1.96  # half width of a 95 % interval, in standard deviations


class Slice(NamedTuple):
    """The error rate of the clips with one value of a key."""

    value: str
    clips: int
    units: int
    rate: float
    low: float  # of a 95 % interval
    high: float
    before: float | None  # rate in the earlier evaluation, if it scored all of these clips

    @property
    def few(self) -> bool:
        """Whether there are too few clips for a reliable rate."""
        return self.clips < FEW


@dataclass(frozen=True, kw_only=True, slots=True)
class Breakdown:
    """The slices of one key."""

    key: str  # of a row, or "length"
    slices: list[Slice]

    @property
    def shown(self) -> list[Slice]:
        """Slices shown at first; of more than SHOWN, those of few clips are not."""
        if len(self.slices) <= SHOWN:
            return self.slices
        return ([s for s in self.slices if not s.few] or self.slices)[:SHOWN]

    @property
    def folded(self) -> list[Slice]:
        """The other slices."""
        shown = {s.value for s in self.shown}
        return [s for s in self.slices if s.value not in shown]

    @property
    def scale(self) -> float:
        """The rate at the right end of the bars: the largest upper bound of the intervals.

        Slices of few clips count by their rate, since their intervals are very wide.
        """
        return max(s.rate if s.few else s.high for s in self.shown) or 1.0


def length_of(row: Row) -> str:
    """Return the name of a row's length bin."""
    seconds = row["seconds"] or 0.0
    bins = (name for name, (_, high) in zip(LENGTHS, BINS, strict=False) if seconds < high)
    return LENGTHS[-1] if is_long(row) else next(bins, LENGTHS[-2])


def is_long(row: Row) -> bool:
    """Return whether a clip is longer than Whisper's window, and so scored apart."""
    return (row["seconds"] or 0.0) > CHUNK_SECONDS


def breakdowns(rows: Sequence[Row], before: Sequence[int | None]) -> list[Breakdown]:
    """Return the breakdown of each key that has at least two values.

    Clips over 30 s are only in the breakdown by length: the main scores exclude them too.

    Args:
        rows: of utterances.jsonl.
        before: number of edits of each row in an earlier evaluation; None if not scored there.
    """
    pairs = [pair for pair in zip(rows, before, strict=True) if pair[0]["edits"] is not None]
    lengths = _slices(pairs, length_of)
    lengths.sort(key=lambda s: LENGTHS.index(s.value))
    parts = [Breakdown(key="length", slices=lengths)]
    short = [pair for pair in pairs if not is_long(pair[0])]
    for key in KEYS:
        slices = _slices(short, partial(_value, key))
        if key == "age":  # sorted by value instead of rate: fifties, fourties, …
            slices.sort(key=lambda s: (s.value == UNKNOWN, s.value))
        parts.append(Breakdown(key=key, slices=slices))
    return [part for part in parts if len(part.slices) > 1]


def _value(key: str, row: Row) -> str:
    return str(row.get(key) or UNKNOWN)


def _slices(pairs: Sequence[Pair], value_of: Callable[[Row], str]) -> list[Slice]:
    """Return the slices of rows by a value, the highest error rate first."""
    parts: dict[str, list[Pair]] = {}
    for pair in pairs:
        parts.setdefault(value_of(pair[0]), []).append(pair)
    slices = [_slice(value, part) for value, part in parts.items()]
    return sorted(slices, key=lambda s: (s.value == UNKNOWN, -s.rate, s.value))


def _slice(value: str, pairs: Sequence[Pair]) -> Slice:
    counts = [(row["edits"], row["units"]) for row, _ in pairs]
    units = sum(length for _, length in counts)
    rate = sum(edits for edits, _ in counts) / units
    # interval of a ratio of sums by linearization (delta method): close to a bootstrap, and fast
    spread = sum((edits - rate * length) ** 2 for edits, length in counts)
    half = Z * sqrt(spread * len(counts) / max(1, len(counts) - 1)) / units
    earlier = [edits for _, edits in pairs if edits is not None]
    before = sum(earlier) / units if len(earlier) == len(pairs) else None
    return Slice(value, len(pairs), units, rate, max(0.0, rate - half), rate + half, before)
