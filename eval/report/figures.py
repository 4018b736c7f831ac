"""Format scores.json for tables and pages: error rates, hallucinations, settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from data.labels import UNSPACED
from eval.metrics.confidence_intervals import saved_percent
from eval.metrics.groups import LABELS
from eval.metrics.scores import saved_groups
from eval.probes.hallucination import COUNTS, SIGNS

Saved = Mapping[str, Any]  # contents of scores.json, or a part of them
ORTHO = "_ortho"  # suffix of the keys of orthographic error rates
UNITS = {"word": "words", "character": "characters", "mixed": "words and characters"}
# key of scores.json → text on the page
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
NUMBERS = {"clips", "change", "loss"}  # right-aligned columns
NO_SPEECH = "no speech"  # in the column of languages, for silence and noise


class Summary(NamedTuple):
    """A row of a table of evaluations; unknown fields are empty."""

    split: str
    language: str
    clips: str
    before: str  # error in the earlier evaluation
    error: str  # with metric and 95 % interval: WER 4.51 % (3.2 to 6.0)
    change: str  # of the error since the earlier evaluation, in percentage points
    loss: str  # nats per token, of all languages
    hallucinations: str  # clips with each sign, of all languages


class Figure(NamedTuple):
    """An error rate and its interval."""

    name: str  # WER, CER orthographic, …
    rate: float
    low: float | None  # of the 95 % interval, if the file contains one
    high: float | None

    def __str__(self) -> str:
        """Return the rate in percent."""
        return percent(self.rate)

    @property
    def interval(self) -> str:
        """Return the interval in percent, or an empty string."""
        if self.low is None or self.high is None:
            return ""
        return f"{100 * self.low:.2f} – {100 * self.high:.2f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """The error rates of a group: a language, its clips over 30 s, or a corpus."""

    name: str
    saved: Saved
    earlier: Saved  # the group in an earlier evaluation; empty if there is none

    @property
    def main(self) -> Figure:
        """Return the main error rate: normalised, in the unit of the language."""
        return _figure(self.saved, self.saved["metric"].lower())

    @property
    def before(self) -> Figure | None:
        """Return the main error rate of the earlier evaluation."""
        key = self.saved["metric"].lower()
        return _figure(self.earlier, key) if key in self.earlier else None

    @property
    def figures(self) -> list[tuple[Figure, Figure | None, Saved]]:
        """Return all error rates, the main one first: current, earlier, and counts of edits.

        For languages without spaces word errors are left out, since a sentence is one word.
        """
        main, language = self.saved["metric"].lower(), self.name.split(",")[0]
        hidden = ("wer", "wer_ortho") if language in UNSPACED else ()
        keys = [key for key, value in self.saved.items() if _is_figure(value) and key not in hidden]
        keys.sort(key=lambda key: key != main)
        return [
            (
                _figure(self.saved, key),
                _figure(self.earlier, key) if key in self.earlier else None,
                self.saved[key],
            )
            for key in keys
        ]

    @property
    def resampled(self) -> str:
        """Return what the bootstrap of the interval resampled: utterances or speakers."""
        return str(self.saved[self.saved["metric"].lower()].get("bootstrap") or "")


def totals(scores: Saved, earlier: Saved) -> list[Total]:
    """Return the error rates of each group, with those of an earlier evaluation.

    Args:
        scores: contents of scores.json.
        earlier: those of the earlier evaluation, or {}.
    """
    earlier_groups = dict(saved_groups(dict(earlier))) if earlier else {}
    return [
        Total(name=name, saved=group, earlier=earlier_groups.get(name, {}))
        for name, group in saved_groups(dict(scores))
        if group["metric"].lower() in group  # missing if every reference is empty
    ]


def normalizers(groups: Sequence[Total]) -> list[str]:
    """Return unit and normalizer of each language."""
    languages = {total.name.split(",")[0]: total.saved for total in groups}
    return [
        f"{language or 'all'}: {UNITS[saved['unit']]}, {saved['normalizer']}"
        for language, saved in languages.items()
    ]


def facts(scores: Saved) -> list[str]:
    """Return the model, settings and speed of an evaluation, and the clips left out."""
    lines = [form.format(scores[key]) for key, form in FACTS.items() if scores.get(key)]
    audio, seconds = scores.get("audio_seconds"), scores.get("seconds")
    if audio and seconds:
        lines.append(f"{audio / 60:.1f} min of audio in {seconds:.0f} s")
    left_out = scores.get("left_out") or {}
    return lines + [f"left out: {count} {reason}" for reason, count in left_out.items()]


def summaries(split: str, scores: Saved, earlier: Saved) -> list[Summary]:
    """Return a row for each language and corpus of an evaluation, and one for silence and noise.

    Args:
        split: name of the split.
        scores: contents of scores.json.
        earlier: those of an earlier evaluation, or {}. They are ignored if only one of the two was
            decoded at true length.
    """
    comparable = bool(scores.get("true_length")) == bool(earlier.get("true_length"))
    counts, loss = scores.get("meters") or {}, scores.get("loss")
    once = ("" if loss is None else f"{loss:.4f}", format_counts(counts))  # in the first row only
    rows = []
    for total in totals(scores, earlier if comparable else {}):
        key, metric = total.saved["metric"].lower(), total.saved["metric"]
        before, change = "", ""
        if total.before is not None:
            before = f"{metric} {saved_percent(total.earlier[key])}"
            change = f"{100 * (total.main.rate - total.before.rate):+.2f} points"
        error = f"{metric} {saved_percent(total.saved[key])}"
        clips = f"{total.saved['clips']:,}"
        rows.append(Summary(split, total.name, clips, before, error, change, *once))
        once = ("", "")
    if noise := counts.get("noise"):
        texts = f"text in {noise['spoken']}" if noise["spoken"] else "none"
        rows.append(Summary(split, NO_SPEECH, str(noise["clips"]), "", "", "", "", texts))
    return rows


def columns(rows: Sequence[Summary]) -> list[str]:
    """Return the fields that are not empty in all rows."""
    return [name for name in HEADINGS if any(getattr(row, name) for row in rows)]


def format_counts(counts: Saved) -> str:
    """Return the number of clips with each sign in a line: 2 loops, 1 empty."""
    if not counts:
        return ""
    parts = [f"{counts[name]} {SIGNS[name].label}" for name in COUNTS if counts.get(name)]
    return ", ".join(parts) or "none"


def hallucinations(scores: Saved, earlier: Saved) -> list[tuple[str, str, str]]:
    """Return for each sign its definition, its clips, and those of the earlier evaluation."""
    now, before = _counts(scores), _counts(earlier)
    return [(SIGNS[name].definition, count, before.get(name, "")) for name, count in now.items()]


def noise_texts(scores: Saved) -> list[tuple[str, str]]:
    """Return id and text of the clips of silence and noise for which a text was returned."""
    return list(((scores.get("meters") or {}).get("noise") or {}).get("texts", {}).items())


def _counts(scores: Saved) -> dict[str, str]:
    """Return the clips with each sign, as "3 of 94"."""
    counts = scores.get("meters") or {}
    shares = {n: f"{counts[n]} of {counts['clips']}" for n in COUNTS if n in counts}
    if noise := counts.get("noise"):
        shares["noise"] = f"{noise['spoken']} of {noise['clips']}"
    return shares


def percent(rate: float) -> str:
    """Format a fraction in percent."""
    return f"{100 * rate:.2f} %"


def _is_figure(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value.get("units"))


def _figure(group: Saved, key: str) -> Figure:
    name = LABELS.get(key.removesuffix(ORTHO), key)
    name += " orthographic" if key.endswith(ORTHO) else ""
    low, high = group[key].get("interval") or (None, None)
    return Figure(name, group[key]["rate"], low, high)
