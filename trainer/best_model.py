"""Choose the better of two models: by a paired test on the same clips of dev, then by dev loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic_files import read_jsonl, write_jsonl
from data.log_mel import CHUNK_SECONDS
from eval.metrics.confidence_intervals import Difference, paired_bootstrap
from eval.metrics.hypothesis import Hypothesis
from trainer.state import TrainState

UTTERANCES, LOSSES = "utterances.jsonl", "losses.jsonl"
MIN_LOSS_DIFFERENCE = 1e-4  # nats per token; dev losses that differ by less count as equal

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a model is better than the best one so far, and the reason."""

    better: bool
    reason: str  # for the console


def write_losses(folder: Path, hypotheses: Sequence[Hypothesis]) -> None:
    """Write the loss of each reference to an evaluation's folder."""
    losses = ((h.utterance.id, h.reference_loss) for h in hypotheses if h.reference_loss)
    write_jsonl(folder / LOSSES, ({"id": name, **loss._asdict()} for name, loss in losses))


def compare_with_best(best: Path, challenger: Path, error: float, state: TrainState) -> Verdict:
    """Return whether a model is the best so far.

    It compares files in the run's folder, so that the result does not depend on resumes or on the
    number of processes.

    Args:
        best: evaluation folder of the best model so far.
        challenger: evaluation folder of the new model.
        error: of the new model, a fraction.
        state: holds the error and the update of the best model.
    """
    if state.best_error is None:
        return Verdict(better=True, reason="the best so far: the first one")
    verdict = compare(best, challenger)
    if verdict is None:
        reason = f"no clips in common to compare, {error:.2%} after {state.best_error:.2%}"
        verdict = Verdict(better=error < state.best_error, reason=reason)
    old = f"update {state.best_step}"
    outcome = f"the best so far; against {old}" if verdict.better else f"{old} stays; against it"
    return Verdict(better=verdict.better, reason=f"{outcome}: {verdict.reason}")


def compare(best: Path, challenger: Path) -> Verdict | None:
    """Compare two evaluations on the clips up to 30 s that they have in common.

    Args:
        best: evaluation folder of the best model so far.
        challenger: evaluation folder of the new model.

    Returns:
        None if there are no such clips: a full disk prevented one evaluation from being written, or
        loop.eval_clips was changed.
    """
    old, new = _rows(best), _rows(challenger)
    shared = [name for name, row in new.items() if old.get(name, {}).get("units") == row["units"]]
    if not shared:
        return None
    difference = paired_bootstrap(
        np.array([old[name]["edits"] for name in shared]),
        np.array([new[name]["edits"] for name in shared]),
        np.array([new[name]["units"] for name in shared]),
        [new[name].get("speaker") for name in shared],
    )
    points = _in_points(difference)
    if difference.significant:
        better = difference.change < 0
        return Verdict(better=better, reason=f"{'better' if better else 'worse'}, {points}")
    with_loss = [name for name in shared if old[name]["loss"] and new[name]["loss"]]
    before, after = (_mean_loss(rows, with_loss) for rows in (old, new))
    better = after < before - MIN_LOSS_DIFFERENCE
    reason = f"no difference can be shown, {points}; dev loss {after:.4f} after {before:.4f}"
    return Verdict(better=better, reason=reason)


def _in_points(difference: Difference) -> str:
    """Return a difference and its interval in percentage points."""
    interval = difference.interval
    points = f"{100 * difference.change:+.2f} points"
    return points + (
        f" ({100 * interval.low:+.2f} to {100 * interval.high:+.2f})" if interval else ""
    )


def _rows(folder: Path) -> dict[str, Row]:
    """Return the scored utterances up to 30 s by id, with their reference losses."""
    if not (folder / UTTERANCES).is_file():
        return {}
    losses = {}
    if (folder / LOSSES).is_file():
        losses = {row["id"]: (row["nll"], row["tokens"]) for row in read_jsonl(folder / LOSSES)}
    return {
        row["id"]: {**row, "loss": losses.get(row["id"])}
        for row in read_jsonl(folder / UTTERANCES)
        if row["edits"] is not None and row["seconds"] <= CHUNK_SECONDS
    }


def _mean_loss(rows: dict[str, Row], names: list[str]) -> float:
    """Return the loss of some utterances in nats per token; 0 without utterances."""
    losses = [rows[name]["loss"] for name in names]
    return sum(nll for nll, _ in losses) / max(1, sum(tokens for _, tokens in losses))
