"""Summary of an evaluation during training: rows of the console table, notes and warnings."""

from typing import Any, NamedTuple, Self

from eval.probes.run_probes import ProbeResults
from eval.report.figures import Summary, normalizers, summaries, totals


class Evaluation(NamedTuple):
    """Summary of the evaluation of a split."""

    error: float  # error rate that models are chosen by, a fraction
    rows: list[Summary]
    notes: list[str]  # units, normalizers, decoding
    warnings: list[str]

    @classmethod
    def of(
        cls, split: str, saved: dict[str, Any], probes: ProbeResults, first: dict[str, Any]
    ) -> Self:
        """Summarize an evaluation.

        Args:
            split: its name.
            saved: contents of its scores.json.
            probes: results of its probes.
            first: contents of scores.json before training, or an empty dict.
        """
        rows = [*summaries(split, saved, first), *forgetting_rows(probes)]
        notes = normalizers(totals(saved, {}))
        notes += [f"{split} decoded at true length"] if saved["true_length"] else []
        if probes.forgetting is not None and probes.forgetting.own:
            notes.append("forgetting: the references are the texts of the first evaluation")
        warnings = [f"{split} {line}" for line in probes.warnings()]
        return cls(saved["error"], rows, notes, warnings)


def forgetting_rows(probes: ProbeResults) -> list[Summary]:
    """Return the rows of forgetting in the table of an evaluation."""
    forgetting = probes.forgetting
    if forgetting is None:
        return []
    scores = {**forgetting.scores.to_json(), "true_length": probes.true_length}
    return summaries("forgetting", scores, {} if probes.first is None else forgetting.first)
