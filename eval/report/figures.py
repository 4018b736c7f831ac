"""What scores.json holds, as tables and pages show it: errors, hallucinations, circumstances."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from data.labels import UNSPACED
from eval.metrics.confidence import saved_percent
from eval.metrics.groups import LABELS
from eval.metrics.scores import saved_groups
from eval.probes.hallucination import COUNTS, SIGNS

Saved = Mapping[str, Any]  # a scores.json, or a part of one
ORTHO = "_ortho"  # what the key of a figure of raw texts ends with
UNITS = {"word": "words", "character": "characters", "mixed": "words and characters"}
# key of scores.json → how the page says it
FACTS = {
    "model": "{}",
    "true_length": "decoded at true length",
    "beams": "beams: {}",
    "max_length": "at most {} tokens",
}


HEADINGS = {  # of a table of evaluations: field of Summary → heading
    "split": "split",
    "language": "language",
    "clips": "clips",
    "before": "error before",
    "error": "error (95 % interval)",
    "change": "change",
    "loss": "loss",
    "hallucinations": "hallucinations",
}
NUMBERS = {"clips", "change", "loss"}  # columns that are aligned on the right


SILENCE = "no speech"  # silence and noise, in the place of a language


class Summary(NamedTuple):
    """A row of a table of evaluations; a field is empty where nothing is known."""

    split: str
    language: str
    clips: str
    before: str  # as error, in the earlier evaluation
    error: str  # with its metric and 95 % interval: WER 4.51 % (3.2 to 6.0)
    change: str  # of the error since the earlier evaluation, in percentage points
    loss: str  # nats a token, of all languages together
    hallucinations: str  # clips with each sign, of all languages together


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


def facts(scores: Saved) -> list[str]:
    """Return under which circumstances the figures came about."""
    told = [form.format(scores[key]) for key, form in FACTS.items() if scores.get(key)]
    audio, seconds = scores.get("audio_seconds"), scores.get("seconds")
    if audio and seconds:
        told.append(f"{audio / 60:.1f} min of audio in {seconds:.0f} s")
    left_out = scores.get("left_out") or {}
    return told + [f"left out: {count} {reason}" for reason, count in left_out.items()]


def summaries(split: str, scores: Saved, was: Saved) -> list[Summary]:
    """Return a row for each language and corpus of an evaluation, and one of silence and noise.

    Args:
        split: its name.
        scores: its scores.json.
        was: that of an earlier evaluation, or nothing. One that was decoded differently, padded or
            at true length, is not compared.
    """
    alike = bool(scores.get("true_length")) == bool(was.get("true_length"))
    counts, loss = scores.get("meters") or {}, scores.get("loss")
    once = ("" if loss is None else f"{loss:.4f}", hallucinated(counts))
    found = []
    for total in totals(scores, was if alike else {}):
        key, metric = total.saved["metric"].lower(), total.saved["metric"]
        before, change = "", ""
        if total.before is not None:
            before = f"{metric} {saved_percent(total.was[key])}"
            change = f"{100 * (total.main.rate - total.before.rate):+.2f} points"
        error = f"{metric} {saved_percent(total.saved[key])}"
        clips = f"{total.saved['clips']:,}"
        found.append(Summary(split, total.name, clips, before, error, change, *once))
        once = ("", "")
    if noise := counts.get("noise"):
        told = f"text in {noise['spoken']}" if noise["spoken"] else "none"
        found.append(Summary(split, SILENCE, str(noise["clips"]), "", "", "", "", told))
    return found


def columns(rows: Sequence[Summary]) -> list[str]:
    """Return the fields that any of the rows fills in."""
    return [name for name in HEADINGS if any(getattr(row, name) for row in rows)]


def hallucinated(counts: Saved) -> str:
    """Return the clips with each sign in words: 2 loops, 1 empty."""
    if not counts:
        return ""
    told = [f"{counts[name]} {SIGNS[name].label}" for name in COUNTS if counts.get(name)]
    return ", ".join(told) or "none"


def hallucinations(scores: Saved, was: Saved) -> list[tuple[str, str, str]]:
    """Return each sign: its definition, its clips, and those of the earlier evaluation."""
    now, before = _counts(scores), _counts(was)
    return [(SIGNS[name].definition, count, before.get(name, "")) for name, count in now.items()]


def noise_texts(scores: Saved) -> list[tuple[str, str]]:
    """Return the clips of silence and noise that got a text, and the texts."""
    return list(((scores.get("meters") or {}).get("noise") or {}).get("texts", {}).items())


def _counts(scores: Saved) -> dict[str, str]:
    """Return the clips of each sign: 3 of 94."""
    counts = scores.get("meters") or {}
    found = {n: f"{counts[n]} of {counts['clips']}" for n in COUNTS if n in counts}
    if noise := counts.get("noise"):
        found["noise"] = f"{noise['spoken']} of {noise['clips']}"
    return found


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
