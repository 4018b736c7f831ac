"""What scores.json holds, as the page of an evaluation shows it: figures, meters, circumstances."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from data.labels import UNSPACED
from eval.metrics.groups import LABELS
from eval.metrics.scores import saved_groups

Saved = Mapping[str, Any]  # a scores.json, or a part of one
ORTHO = "_ortho"  # what the key of a figure of raw texts ends with
UNITS = {"word": "words", "character": "characters", "mixed": "words and characters"}
# key of scores.json → how the page says it
FACTS = {
    "model": "{}",
    "true_length": "heard at their own length",
    "beams": "beams: {}",
    "max_length": "at most {} tokens",
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
    def figures(self) -> list[tuple[Figure, Figure | None, Saved]]:
        """Return all figures, the main one first: now, before, and with their counts.

        Where words have no spaces, a word is a sentence: its errors are in scores.json alone.
        """
        main, language = self.saved["metric"].lower(), self.name.split(",")[0]
        hidden = ("wer", "wer_ortho") if language in UNSPACED else ()
        keys = [key for key, value in self.saved.items() if _is_figure(value) and key not in hidden]
        keys.sort(key=lambda key: key != main)
        return [
            (_figure(self.saved, k), _figure(self.was, k) if k in self.was else None, self.saved[k])
            for k in keys
        ]

    @property
    def drawn(self) -> str:
        """Return what the interval's draws were of: utterances, or speakers."""
        return str(self.saved[self.saved["metric"].lower()].get("bootstrap") or "")


def totals(scores: Saved, was: Saved) -> list[Total]:
    """Return the figures of each group, beside those of an earlier evaluation."""
    earlier = dict(saved_groups(dict(was))) if was else {}
    found = saved_groups(dict(scores))
    return [
        Total(name=name, saved=each, was=earlier.get(name, {}))
        for name, each in found
        if each["metric"].lower() in each  # not where every reference is empty
    ]


def normalizers(found: Sequence[Total]) -> list[str]:
    """Return what each language's errors are counted in, and the normaliser of its texts."""
    told = {total.name.split(",")[0]: total.saved for total in found}
    return [
        f"{language or 'all'}: {UNITS[saved['unit']]}, {saved['normalizer']}"
        for language, saved in told.items()
    ]


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


def _is_figure(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value.get("units"))


def _figure(group: Saved, key: str) -> Figure:
    name = LABELS.get(key.removesuffix(ORTHO), key)
    name += " orthographic" if key.endswith(ORTHO) else ""
    low, high = group[key].get("interval") or (None, None)
    return Figure(name, group[key]["rate"], low, high)


def _flat(values: Saved, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the names and values of meters, in whatever groups they are."""
    for key, value in values.items():
        name = f"{above} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        elif value is not None:
            yield name, f"{value:.4g}" if isinstance(value, float) else str(value)
