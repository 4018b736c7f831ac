"""What a run looks at beside its errors: signs of trouble, and what its model unlearns."""

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
    """What was found, and what the run's first evaluation of the split found."""

    meters: HallucinationCounts
    forgetting: Forgetting | None
    first: dict[str, Any] | None  # meters; None: this is the first

    def metrics(self) -> dict[str, float]:
        """Return it under slash names, for the recorder."""
        forgotten = {} if self.forgetting is None else self.forgetting.metrics()
        return self.meters.metrics() | forgotten

    def lines(self) -> list[str]:
        """Return what a person reads: a line of each, and a warning of what grew."""
        found = [str(self.meters)]
        grown = self.meters.grown(self.first)
        if self.forgetting is not None:
            found.append(str(self.forgetting))
            grown += self.forgetting.grown()
        return found + [f"warning: {sentence}" for sentence in grown]

    def save(self, at: Path, step: int) -> None:
        """Write what the clips of forgetting gave, beside the folder of the evaluation."""
        f = self.forgetting
        if f is not None:
            save(at.with_name("forgetting"), f.scores, f.heard, step=step, own=f.own)


def run_probes(
    evaluator: Evaluator,
    hypotheses: Sequence[Hypothesis],
    at: Path,
    *,
    forgetting: bool,
    true_length: bool,
) -> ProbeResults:
    """Look; every process must call.

    Silence and noise are heard with the test split alone: a run scores it first and last.

    Args:
        evaluator: made the evaluation.
        hypotheses: what it heard.
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
    )
