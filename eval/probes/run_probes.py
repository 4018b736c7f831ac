"""Run the probes of an evaluation: hallucination, forgetting, and output on noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.evaluate import Evaluator, save
from eval.metrics.hypothesis import Hypothesis
from eval.probes.forgetting import Forgetting, measure_forgetting
from eval.probes.hallucination import HallucinationCounts, first_hallucination_counts
from eval.probes.noise_clips import transcribe_noise


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResults:
    """Results of the probes, and the counts of the run's first evaluation of the split."""

    hallucination: HallucinationCounts
    forgetting: Forgetting | None
    first: dict[str, Any] | None  # hallucination counts; None if this is the first evaluation
    true_length: bool

    def metrics(self) -> dict[str, float]:
        """Return the metrics for the recorder, by slash name."""
        forgotten = {} if self.forgetting is None else self.forgetting.metrics()
        return self.hallucination.metrics() | forgotten

    def warnings(self) -> list[str]:
        """Return a warning for each count and error rate that rose since the first evaluation."""
        messages = self.hallucination.warnings(self.first)
        return messages if self.forgetting is None else messages + self.forgetting.warnings()

    def save(self, at: Path, step: int) -> None:
        """Write the forgetting scores into a folder beside that of the evaluation."""
        f = self.forgetting
        if f is not None:
            facts = {"step": step, "own": f.own, "true_length": self.true_length}
            save(at.with_name("forgetting"), f.scores, f.hypotheses, **facts)


def run_probes(
    evaluator: Evaluator,
    hypotheses: Sequence[Hypothesis],
    at: Path,
    *,
    forgetting: bool,
    true_length: bool,
) -> ProbeResults:
    """Run the probes; all processes must call this.

    Silence and noise are transcribed only with the test split, which a run scores first and last.

    Args:
        evaluator: that of the evaluation.
        hypotheses: of the evaluation.
        at: folder of the evaluation, eval/step-XXXXXXXX/SPLIT.
        forgetting: score the clips of eval.forgetting_corpus.
        true_length: as in Evaluator.evaluate().

    Raises:
        InputError: eval.forgetting_corpus cannot be read.
    """
    noise = []
    if at.name == "test":
        noise = transcribe_noise(evaluator, hypotheses, true_length=true_length)
    result = None
    if forgetting:
        result = measure_forgetting(evaluator, at.parent.parent, true_length=true_length)
    return ProbeResults(
        hallucination=HallucinationCounts.of(hypotheses, noise),
        forgetting=result,
        first=first_hallucination_counts(at.parent.parent, at.name),
        true_length=true_length,
    )
