"""Error rates and intervals of a group of utterances: a language, a corpus, long audio."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.labels import UNSPACED
from eval.metrics.confidence_intervals import Interval, bootstrap_intervals, percent
from eval.metrics.hypothesis import ComparedTexts, Hypothesis
from eval.metrics.units import METRICS
from eval.metrics.wer import ErrorCounts

LABELS = {
    **{name: name.upper() for name in METRICS.values()},
    "cer_spaces": "CER with spaces",
    "cer_folded": "folded CER",
    "mer_folded": "folded MER",
    "wrong_script": "other script",
}

SHOWN_IN_TABLES_ONLY = set(METRICS.values())  # not in the line of a log

ScoredHypothesis = tuple[Hypothesis, ComparedTexts]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The error counts of the utterances of one language."""

    language: str
    normalizer: str
    unit: str  # word, character or mixed
    clips: int
    empty: int  # clips left out because their normalized reference is empty
    # by metric: wer, cer, wer_ortho, cer_ortho, and those of a language or unit
    figures: Mapping[str, ErrorCounts]
    intervals: Mapping[str, Interval] = field(default_factory=dict)  # by metric

    @property
    def metric(self) -> str:
        """Name of the main metric: WER, CER or MER."""
        return METRICS[self.unit].upper()

    @property
    def error(self) -> ErrorCounts:
        """Counts of the main metric: normalized texts, in the language's unit."""
        return self.counts(METRICS[self.unit])

    def counts(self, metric: str) -> ErrorCounts:
        """Return the counts of a metric, zeros if the group has none."""
        return self.figures.get(metric, ErrorCounts())

    def formatted(self, metric: str) -> str:
        """Format a rate and its interval: 4.51 % (3.2 to 6.0)."""
        text = percent(self.counts(metric).rate, self.intervals.get(metric))
        if metric != "wrong_script":
            return text
        # a share of hypotheses, not of reference units: their number is shown too
        return text.replace(" %", f" % of {self.counts(metric).units}", 1)

    @property
    def method(self) -> str:
        """Unit and normalizer, which are shown beside every error rate."""
        unit = "words and characters" if self.unit == "mixed" else f"{self.unit}s"
        return f"{unit}, {self.normalizer}"

    def shown_metrics(self) -> list[str]:
        """Return the metrics for a table, the main one first.

        In a language without spaces a word is a whole sentence: WER is only in scores.json.
        """
        main = METRICS[self.unit]
        hidden = {"wer"} if self.language in UNSPACED else set()
        shown = [name for name in LABELS if self.counts(name).units]
        return [main, *(name for name in shown if name not in {main, *hidden})]

    def summary(self) -> str:
        """Return the main metric and those of its language in a line, for a log."""
        main, *others = self.shown_metrics()
        more = [
            f"{LABELS[name]} {self.formatted(name)}"
            for name in others
            if name not in SHOWN_IN_TABLES_ONLY
        ]
        ortho = f"{self.formatted(f'{main}_ortho')} orthographic"
        return ", ".join([f"{self.metric} {self.formatted(main)} normalised", ortho, *more])

    def to_json(self) -> dict[str, Any]:
        """Return all counts, rates and intervals, as in scores.json."""
        none = {"interval": None, "bootstrap": None}
        return {
            "clips": self.clips,
            "empty_references": self.empty,
            "metric": self.metric,
            "unit": self.unit,
            "normalizer": self.normalizer,
            **{
                name: counts.to_json()
                | (self.intervals[name].to_json() if name in self.intervals else none)
                for name, counts in self.figures.items()
            },
        }


def group_by_language(scored: Sequence[ScoredHypothesis]) -> list[Group]:
    """Return one group for each language."""
    by_language: dict[str, list[ScoredHypothesis]] = {}
    for hypothesis, compared in scored:
        by_language.setdefault(hypothesis.languages, []).append((hypothesis, compared))
    return [_group(name, part) for name, part in sorted(by_language.items())]


def pooled_error(scored: Sequence[ScoredHypothesis]) -> tuple[ErrorCounts, Interval | None]:
    """Return the main metric over all languages, each in its own unit, and its interval."""
    counted = [(h, c.counts[c.metric]) for h, c in scored if c.counts]
    columns = {"error": [counts for _, counts in counted]}
    totals, intervals = _totals([h for h, _ in counted], columns)
    return totals.get("error", ErrorCounts()), intervals.get("error")


def _group(language: str, scored: Sequence[ScoredHypothesis]) -> Group:
    counted = [(h, c) for h, c in scored if c.counts]
    first = scored[0][1]
    always = (f"{name}{end}" for name in ("wer", "cer", first.metric) for end in ("", "_ortho"))
    # if all references are empty, the usual metrics are present with zero counts
    names = counted[0][1].counts if counted else dict.fromkeys(always)
    columns = {name: [c.counts[name] for _, c in counted] for name in names}
    totals, intervals = _totals([h for h, _ in counted], columns)
    return Group(
        language=language,
        normalizer=first.normalizer,
        unit=first.unit,
        clips=len(counted),
        empty=len(scored) - len(counted),
        figures=totals,
        intervals=intervals,
    )


def _totals(
    hypotheses: Sequence[Hypothesis], columns: Mapping[str, Sequence[ErrorCounts]]
) -> tuple[dict[str, ErrorCounts], dict[str, Interval]]:
    """Sum the counts of each metric over the same utterances, and bootstrap their intervals."""
    if not hypotheses:
        return dict.fromkeys(columns, ErrorCounts()), {}
    edits = np.array([[counts.edits for counts in column] for column in columns.values()]).T
    units = np.array([[counts.units for counts in column] for column in columns.values()]).T
    totals = {name: sum(column, ErrorCounts()) for name, column in columns.items()}
    intervals = bootstrap_intervals(edits, units, [h.speaker for h in hypotheses]) or []
    return totals, dict(zip(columns, intervals, strict=False))  # no interval of one utterance
