"""Which of two models is the better one: by a paired test on the same clips, then by dev loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic_files import read_jsonl, write_jsonl
from data.log_mel import CHUNK_SECONDS
from eval.metrics.confidence import Difference, paired_bootstrap
from eval.metrics.hypothesis import Hypothesis
from trainer.state import TrainState

TEXTS, LOSSES = "utterances.jsonl", "losses.jsonl"
LEAST = 1e-4  # nats a token: where dev losses differ by less, nothing was learned

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a model takes the best one's place, and why, for a person."""

    better: bool
    told: str


def write_losses(folder: Path, hypotheses: Sequence[Hypothesis]) -> None:
    """Keep what each reference cost beside an evaluation's texts."""
    known = ((h.utterance.id, h.reference_loss) for h in hypotheses if h.reference_loss)
    write_jsonl(folder / LOSSES, ({"id": name, **cost._asdict()} for name, cost in known))


def choose(best: Path, challenger: Path, error: float, state: TrainState) -> Verdict:
    """Tell whether a model is the best so far.

    What is compared are files of the run: they are there on every start, with any processes.

    Args:
        best: folder of the evaluation of the best one before it.
        challenger: folder of its own.
        error: its bare figure, a fraction.
        state: knows the best one's figure and update.
    """
    if state.best_error is None:
        return Verdict(better=True, told="the best so far: the first one")
    found = compare(best, challenger)
    if found is None:  # a full disk took one, or loop.eval_clips was changed to other clips
        told = f"nothing is left to compare clip by clip, {error:.2%} after {state.best_error:.2%}"
        found = Verdict(better=error < state.best_error, told=told)
    old = f"update {state.best_step}"
    stands = f"the best so far; against {old}" if found.better else f"{old} stays; against it"
    return Verdict(better=found.better, told=f"{stands}: {found.told}")


def compare(best: Path, challenger: Path) -> Verdict | None:
    """Compare two evaluations, on the clips up to 30 s that both have.

    Args:
        best: folder of the best one's.
        challenger: folder of the other's.

    Returns:
        None where they share no clip: a full disk took one, or it is of other clips.
    """
    old, new = _rows(best), _rows(challenger)
    shared = [name for name, row in new.items() if old.get(name, {}).get("units") == row["units"]]
    if not shared:
        return None
    found = paired_bootstrap(
        np.array([old[name]["edits"] for name in shared]),
        np.array([new[name]["edits"] for name in shared]),
        np.array([new[name]["units"] for name in shared]),
        [new[name].get("speaker") for name in shared],
    )
    if found.significant:
        better = found.change < 0
        return Verdict(better=better, told=f"{'better' if better else 'worse'}, {_told(found)}")
    known = [name for name in shared if old[name]["loss"] and new[name]["loss"]]
    before, after = (_loss(rows, known) for rows in (old, new))
    better = after < before - LEAST
    told = f"no difference can be shown, {_told(found)}; dev loss {after:.4f} after {before:.4f}"
    return Verdict(better=better, told=told)


def _told(found: Difference) -> str:
    told = f"{100 * found.change:+.2f} points"
    if found.interval is not None:
        told += f" ({100 * found.interval.low:+.2f} to {100 * found.interval.high:+.2f})"
    return told


def _rows(folder: Path) -> dict[str, Row]:
    """Return the rows that count, by id, with what their references cost."""
    if not (folder / TEXTS).is_file():
        return {}
    losses = {}
    if (folder / LOSSES).is_file():
        losses = {row["id"]: (row["nll"], row["tokens"]) for row in read_jsonl(folder / LOSSES)}
    return {
        row["id"]: {**row, "loss": losses.get(row["id"])}
        for row in read_jsonl(folder / TEXTS)
        if row["edits"] is not None and row["seconds"] <= CHUNK_SECONDS
    }


def _loss(rows: dict[str, Row], known: list[str]) -> float:
    """Return nats a token; 0 where no reference fits a label: nothing is known to be better."""
    losses = [rows[name]["loss"] for name in known]
    return sum(nll for nll, _ in losses) / max(1, sum(tokens for _, tokens in losses))
