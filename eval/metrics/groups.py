"""The figures of utterances that belong together: of a language, of a corpus, of long audio."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.labels import UNSPACED
from eval.metrics.confidence import Interval, intervals, percent
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

ALWAYS = set(METRICS.values())

DecodeResult = tuple[Hypothesis, ComparedTexts]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The figures of one language."""

    language: str
    normalizer: str
    unit: str  # word, character or mixed
    clips: int
    empty: int  # clips left out because their reference is empty, normalised
    figures: Mapping[str, ErrorCounts]  # wer, cer, wer_ortho, cer_ortho, and what a language adds
    intervals: Mapping[str, Interval] = field(default_factory=dict)  # by figure

    @property
    def metric(self) -> str:
        """Return the name of the main figure: WER, CER or MER."""
        return METRICS[self.unit].upper()

    @property
    def error(self) -> ErrorCounts:
        """Return the main figure: normalised, in the language's unit."""
        return self.of(METRICS[self.unit])

    def of(self, figure: str) -> ErrorCounts:
        """Return a figure, without counts where there is none."""
        return self.figures.get(figure, ErrorCounts())

    def told(self, figure: str) -> str:
        """Return a figure and its interval: 4.51 % (3.2 to 6.0)."""
        told = percent(self.of(figure).rate, self.intervals.get(figure))
        # of outputs, not of what was said: of how many is as telling as the share
        of = f" % of {self.of(figure).units}"
        return told.replace(" %", of, 1) if figure == "wrong_script" else told

    @property
    def how(self) -> str:
        """Return unit and normaliser, which stand beside every figure."""
        unit = "words and characters" if self.unit == "mixed" else f"{self.unit}s"
        return f"{unit}, {self.normalizer}"

    def shown(self) -> list[str]:
        """Return the figures that a person looks at, the main one first.

        A word is a sentence where words have no spaces: its errors are in scores.json alone.
        """
        main = METRICS[self.unit]
        hidden = {"wer"} if self.language in UNSPACED else set()
        others = [name for name in LABELS if self.of(name).units and name not in {main, *hidden}]
        return [main, *others]

    def sentence(self) -> str:
        """Return the main figure and what its language adds in a line, for a log."""
        main, *others = self.shown()
        more = [f"{LABELS[name]} {self.told(name)}" for name in others if name not in ALWAYS]
        written = f"{self.told(f'{main}_ortho')} orthographic"
        return ", ".join([f"{self.metric} {self.told(main)} normalised", written, *more])

    def to_json(self) -> dict[str, Any]:
        """Return all counts, rates and intervals."""
        unsaid = {"interval": None, "bootstrap": None}
        return {
            "clips": self.clips,
            "empty_references": self.empty,
            "metric": self.metric,
            "unit": self.unit,
            "normalizer": self.normalizer,
            **{
                name: counts.to_json()
                | (self.intervals[name].to_json() if name in self.intervals else unsaid)
                for name, counts in self.figures.items()
            },
        }


def groups_of(heard: Sequence[DecodeResult]) -> list[Group]:
    """Return the figures of each language."""
    by_language: dict[str, list[DecodeResult]] = {}
    for each in heard:
        by_language.setdefault(each[0].languages, []).append(each)
    return [_group(name, part) for name, part in sorted(by_language.items())]


def pooled(heard: Sequence[DecodeResult]) -> tuple[ErrorCounts, Interval | None]:
    """Return the main figure of all together, each in its own unit, and its interval."""
    counted = [(h, c.counts[c.metric]) for h, c in heard if c.counts]
    figures, found = _summed([h for h, _ in counted], {"error": [counts for _, counts in counted]})
    return figures.get("error", ErrorCounts()), found.get("error")


def _group(language: str, heard: Sequence[DecodeResult]) -> Group:
    counted = [(h, c) for h, c in heard if c.counts]
    first = heard[0][1]
    always = (f"{name}{end}" for name in ("wer", "cer", first.metric) for end in ("", "_ortho"))
    # where all references are empty, a reader finds the usual figures all the same, of nothing
    names = counted[0][1].counts if counted else dict.fromkeys(always)
    columns = {name: [c.counts[name] for _, c in counted] for name in names}
    figures, found = _summed([h for h, _ in counted], columns)
    return Group(
        language=language,
        normalizer=first.normalizer,
        unit=first.unit,
        clips=len(counted),
        empty=len(heard) - len(counted),
        figures=figures,
        intervals=found,
    )


def _summed(
    heard: Sequence[Hypothesis], columns: Mapping[str, Sequence[ErrorCounts]]
) -> tuple[dict[str, ErrorCounts], dict[str, Interval]]:
    """Return the sums of figures over the same utterances, and their intervals."""
    if not heard:
        return dict.fromkeys(columns, ErrorCounts()), {}
    edits = np.array([[each.edits for each in column] for column in columns.values()]).T
    units = np.array([[each.units for each in column] for column in columns.values()]).T
    figures = {name: sum(column, ErrorCounts()) for name, column in columns.items()}
    found = intervals(edits, units, [h.speaker for h in heard]) or []
    return figures, dict(zip(columns, found, strict=False))  # none of a single utterance
