"""For whom and for what a model errs: by length, corpus, language, gender, age, accent, speaker."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any, NamedTuple

from data.log_mel import CHUNK_SECONDS

Row = Mapping[str, Any]  # of utterances.jsonl
Pair = tuple[Row, int | None]  # a row, and its edits in an earlier evaluation
BINS = ((0, 2), (2, 5), (5, 10), (10, 20), (20, CHUNK_SECONDS))  # seconds
LENGTHS = (*(f"{low} to {high} s" for low, high in BINS), f"over {CHUNK_SECONDS} s")
KEYS = ("corpus", "language", "gender", "age", "accent", "speaker")  # of a row
UNKNOWN = "not known"
FEW = 10  # clips; with fewer a rate says little
SHOWN = 10  # slices of one kind that are not folded
Z = 1.96  # standard deviations on each side of 95 %


class Slice(NamedTuple):
    """Clips that have something in common."""

    value: str  # what they have in common
    clips: int
    units: int
    rate: float
    low: float  # of a 95 % interval
    high: float
    before: float | None  # the rate in the earlier evaluation, where it heard all of them

    @property
    def few(self) -> bool:
        """Tell whether the rate says little."""
        return self.clips < FEW


@dataclass(frozen=True, kw_only=True, slots=True)
class Breakdown:
    """The slices of one kind."""

    key: str  # of a row; or length
    slices: list[Slice]

    @property
    def shown(self) -> list[Slice]:
        """Return what is shown at once: of too many, not those of few clips."""
        if len(self.slices) <= SHOWN:
            return self.slices
        return ([each for each in self.slices if not each.few] or self.slices)[:SHOWN]

    @property
    def folded(self) -> list[Slice]:
        """Return the others."""
        shown = {each.value for each in self.shown}
        return [each for each in self.slices if each.value not in shown]

    @property
    def scale(self) -> float:
        """Return the rate where the longest bar ends, or an interval that tells something."""
        return max(each.rate if each.few else each.high for each in self.shown) or 1.0


def length_of(row: Row) -> str:
    """Return the name of the bin that a row's length is in."""
    seconds = row["seconds"] or 0.0
    inside = (name for name, (_, high) in zip(LENGTHS, BINS, strict=False) if seconds < high)
    return LENGTHS[-1] if is_long(row) else next(inside, LENGTHS[-2])


def is_long(row: Row) -> bool:
    """Tell whether a clip is longer than Whisper's window: scored apart."""
    return (row["seconds"] or 0.0) > CHUNK_SECONDS


def breakdowns(rows: Sequence[Row], before: Sequence[int | None]) -> list[Breakdown]:
    """Return what tells something: where a value is known, and is not the same of all clips.

    Clips over 30 s are in the lengths alone, as the main figures are of the others.

    Args:
        rows: of utterances.jsonl.
        before: the edits of each in an earlier evaluation; None where it was not heard in one.
    """
    pairs = [pair for pair in zip(rows, before, strict=True) if pair[0]["edits"] is not None]
    lengths = _slices(pairs, length_of)
    lengths.sort(key=lambda each: LENGTHS.index(each.value))
    found = [Breakdown(key="length", slices=lengths)]
    short = [pair for pair in pairs if not is_long(pair[0])]
    for key in KEYS:
        slices = _slices(short, partial(_value, key))
        if key == "age":  # twenties, thirties: in their own order as far as an alphabet knows it
            slices.sort(key=lambda each: (each.value == UNKNOWN, each.value))
        found.append(Breakdown(key=key, slices=slices))
    return [each for each in found if len(each.slices) > 1]


def _value(key: str, row: Row) -> str:
    return str(row.get(key) or UNKNOWN)


def _slices(pairs: Sequence[Pair], value_of: Callable[[Row], str]) -> list[Slice]:
    """Return the slices of rows by a value, the worst first."""
    parts: dict[str, list[Pair]] = {}
    for pair in pairs:
        parts.setdefault(value_of(pair[0]), []).append(pair)
    slices = [_slice(value, part) for value, part in parts.items()]
    return sorted(slices, key=lambda each: (each.value == UNKNOWN, -each.rate, each.value))


def _slice(value: str, pairs: Sequence[Pair]) -> Slice:
    counts = [(row["edits"], row["units"]) for row, _ in pairs]
    units = sum(length for _, length in counts)
    rate = sum(edits for edits, _ in counts) / units
    # of a ratio of sums over clips, by its first derivatives: what a bootstrap comes to, at once
    spread = sum((edits - rate * length) ** 2 for edits, length in counts)
    half = Z * sqrt(spread * len(counts) / max(1, len(counts) - 1)) / units
    earlier = [was for _, was in pairs if was is not None]
    whole = len(earlier) == len(pairs)
    before = sum(earlier) / units if whole else None
    return Slice(value, len(pairs), units, rate, max(0.0, rate - half), rate + half, before)
