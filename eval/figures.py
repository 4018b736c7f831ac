"""What scores.json holds, as the page of an evaluation shows it: figures, meters, circumstances."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from eval.scores import saved_groups

Saved = Mapping[str, Any]  # a scores.json, or a part of one
ORTHO = "ortho"  # what the key of a figure of raw texts ends with
# key of scores.json → how the page says it
FACTS = {
    "model": "{}",
    "true_length": "heard at their own length",
    "beams": "{} beams",
    "max_length": "{} tokens at most",
}


class Figure(NamedTuple):
    """A rate, and how sure it is."""

    name: str  # WER, CER orthographic, …
    rate: float
    low: float | None  # of the 95 % interval, where the file says one
    high: float | None

    def __str__(self) -> str:
        """Return the rate in percent."""
        return percent(self.rate)

    @property
    def interval(self) -> str:
        """Return the interval in percent, or nothing."""
        if self.low is None or self.high is None:
            return ""
        return f"{100 * self.low:.2f} – {100 * self.high:.2f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """The figures of a group: a language, its clips over 30 s, or a corpus."""

    name: str
    saved: Saved
    was: Saved  # the same in an earlier evaluation; empty where there is none

    @property
    def main(self) -> Figure:
        """Return the figure that counts: normalised, in the language's unit."""
        return _figure(self.saved, self.saved["metric"].lower())

    @property
    def before(self) -> Figure | None:
        """Return the earlier one."""
        key = self.saved["metric"].lower()
        return _figure(self.was, key) if key in self.was else None

    @property
    def others(self) -> list[Figure]:
        """Return all other rates."""
        main = self.saved["metric"].lower()
        return [_figure(self.saved, key) for key in self.saved if key != main and _is(self, key)]

    @property
    def counts(self) -> Saved:
        """Return the edits of the main figure."""
        counts: Saved = self.saved[self.saved["metric"].lower()]
        return counts

    @property
    def resampled(self) -> str:
        """Return what the interval was drawn over: utterances, or speakers."""
        return str(self.counts.get("bootstrap", ""))


def totals(scores: Saved, was: Saved) -> list[Total]:
    """Return the figures of each group, beside those of an earlier evaluation."""
    earlier = dict(saved_groups(dict(was))) if was else {}
    found = saved_groups(dict(scores))
    return [Total(name=name, saved=each, was=earlier.get(name, {})) for name, each in found]


def scale(found: Sequence[Total]) -> float:
    """Return the rate at the right end of the intervals that are drawn."""
    figures = [each for total in found for each in (total.main, total.before) if each]
    return max((each.high or each.rate for each in figures), default=0.0) or 1.0


def facts(scores: Saved) -> list[str]:
    """Return under which circumstances the figures came about."""
    told = [form.format(scores[key]) for key, form in FACTS.items() if scores.get(key)]
    audio, seconds = scores.get("audio_seconds"), scores.get("seconds")
    if audio and seconds:
        told.append(f"{audio / 60:.1f} min of audio in {seconds:.0f} s")
    left_out = scores.get("left_out") or {}
    return told + [f"left out: {count} {reason}" for reason, count in left_out.items()]


def meters(scores: Saved, was: Saved) -> list[tuple[str, str, str]]:
    """Return the meters: name, value, value in the earlier evaluation."""
    earlier = dict(_flat(was.get("meters") or {}))
    return [(name, v, earlier.get(name, "")) for name, v in _flat(scores.get("meters") or {})]


def percent(rate: float) -> str:
    """Return a fraction as people read it."""
    return f"{100 * rate:.2f} %"


def _is(total: Total, key: str) -> bool:
    return isinstance(total.saved[key], Mapping) and "rate" in total.saved[key]


def _figure(group: Saved, key: str) -> Figure:
    metric, *more = key.split("_")
    words = ["orthographic" if word == ORTHO else word for word in more]
    low, high = group[key].get("interval") or (None, None)
    return Figure(" ".join([metric.upper(), *words]), group[key]["rate"], low, high)


def _flat(values: Saved, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the names and values of meters, in whatever groups they are."""
    for key, value in values.items():
        name = f"{above} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        else:
            yield name, f"{value:.4g}" if isinstance(value, float) else str(value)
