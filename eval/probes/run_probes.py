"""What a run measures beside its errors: hallucinations, and what its model forgets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from eval.evaluate import Evaluator, save
from eval.metrics.hypothesis import Hypothesis
from eval.probes.forgetting import Forgetting, measure_forgetting
from eval.probes.hallucination import HallucinationCounts, first_hallucination_counts
from eval.probes.noise_clips import transcribe_noise
from eval.report.figures import Summary, normalizers, summaries, totals


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResults:
    """What was found, and what the run's first evaluation of the split found."""

    meters: HallucinationCounts
    forgetting: Forgetting | None
    first: dict[str, Any] | None  # meters; None: this is the first
    true_length: bool

    def metrics(self) -> dict[str, float]:
        """Return it under slash names, for the recorder."""
        forgotten = {} if self.forgetting is None else self.forgetting.metrics()
        return self.meters.metrics() | forgotten

    def warnings(self) -> list[str]:
        """Return a sentence on each count that grew since the first evaluation."""
        grown = self.meters.grown(self.first)
        return grown if self.forgetting is None else grown + self.forgetting.grown()

    def summaries(self) -> list[Summary]:
        """Return the rows of forgetting, for the table of an evaluation."""
        f = self.forgetting
        if f is None:
            return []
        now = {**f.scores.to_json(), "true_length": self.true_length}
        return summaries("forgetting", now, {} if self.first is None else f.first)

    def save(self, at: Path, step: int) -> None:
        """Write what the clips of forgetting gave, beside the folder of the evaluation."""
        f = self.forgetting
        if f is not None:
            facts = {"step": step, "own": f.own, "true_length": self.true_length}
            save(at.with_name("forgetting"), f.scores, f.heard, **facts)


class Evaluation(NamedTuple):
    """What a run shows of the evaluation of a split."""

    error: float  # what models are chosen by: a fraction
    rows: list[Summary]
    notes: list[str]  # units, normalisers, decoding
    warnings: list[str]

    @classmethod
    def of(
        cls, split: str, saved: dict[str, Any], beside: ProbeResults, first: dict[str, Any]
    ) -> Self:
        """Collect it.

        Args:
            split: its name.
            saved: what its scores.json holds.
            beside: what was measured beside its errors.
            first: its scores.json of before training, or nothing.
        """
        rows = [*summaries(split, saved, first), *beside.summaries()]
        notes = normalizers(totals(saved, {}))
        notes += [f"{split} decoded at true length"] if saved["true_length"] else []
        if beside.forgetting is not None and beside.forgetting.own:
            notes.append("forgetting: the references are the texts of the first evaluation")
        warnings = [f"{split} {line}" for line in beside.warnings()]
        return cls(saved["error"], rows, notes, warnings)


def run_probes(
    evaluator: Evaluator,
    hypotheses: Sequence[Hypothesis],
    at: Path,
    *,
    forgetting: bool,
    true_length: bool,
) -> ProbeResults:
    """Measure; every process must call.

    Silence and noise are decoded with the test split alone: a run scores it first and last.

    Args:
        evaluator: made the evaluation.
        hypotheses: its texts.
        at: its folder, eval/step-XXXXXXXX/SPLIT.
        forgetting: whether to score the clips of eval.forgetting_corpus.
        true_length: as in Evaluator.evaluate().

    Raises:
        InputError: eval.forgetting_corpus cannot be used.
    """
    noise = []
    if at.name == "test":
        noise = transcribe_noise(evaluator, hypotheses, true_length=true_length)
    found = None
    if forgetting:
        found = measure_forgetting(evaluator, at.parent.parent, true_length=true_length)
    return ProbeResults(
        meters=HallucinationCounts.of(hypotheses, noise),
        forgetting=found,
        first=first_hallucination_counts(at.parent.parent, at.name),
        true_length=true_length,
    )
