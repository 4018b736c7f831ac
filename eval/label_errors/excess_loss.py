"""Compute each clip's excess loss over similar clips, from losses.jsonl of a run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.atomic_files import read_jsonl
from data.errors import InputError

LOSSES = "losses.jsonl"
# an observation is the loss of one clip in one update
MIN_GROUP = 100  # observations that are compared: similar in length, or near in time
MAX_GROUPS = 50
ROUNDS = 3  # length and step are correlated: removing the median of one shifts the other
SPREAD = 1.4826  # standard deviation of a normal distribution, in median absolute deviations
MIN_SPREAD = 1e-3  # nats per token; avoids a division by 0 if all losses are equal

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscriptLoss:
    """The training loss of a clip's transcript."""

    id: str
    loss: float  # nats per token, mean over all passes
    excess: float  # loss over that of similar clips, in robust standard deviations
    passes: int  # number of forward passes over the clip


def transcript_losses(run: Path) -> list[TranscriptLoss]:
    """Return the loss of every clip of a run, the highest excess first.

    Short texts have a higher loss per token than long ones, and losses fall during training. The
    excess removes both: a loss is compared with those of similar length and of near updates.

    Raises:
        InputError: the folder is not a run, or has no losses yet.
    """
    path = run / LOSSES
    if not path.is_file():
        raise InputError(f"{path}: no such file: name the folder of a run that has trained")
    rows = list(read_jsonl(path))
    ids = [name for row in rows for name in row["ids"]]
    if not ids:
        raise InputError(f"{path}: has no clips yet: wait for the run's first log line")
    steps = np.array([row["step"] for row in rows for _ in row["ids"]])
    tokens = np.array([count for row in rows for count in row["tokens"]])
    losses = np.array([nll for row in rows for nll in row["nll"]]) / tokens
    return _mean_by_clip(ids, losses, excess_losses(losses, tokens, steps))


def excess_losses(losses: Floats, tokens: NDArray[np.int64], steps: NDArray[np.int64]) -> Floats:
    """Return each loss's distance from the median of similar clips, in robust deviations.

    Args:
        losses: nats per token. Shape: (observations,).
        tokens: length of the transcripts. Shape: (observations,).
        steps: of the updates. Shape: (observations,).
    """
    residuals = losses.copy()
    for _ in range(ROUNDS):
        for key in (tokens, steps):
            for group in _groups(key):
                residuals[group] -= np.median(residuals[group])
    for group in _groups(tokens):
        residuals[group] -= np.median(residuals[group])
        spread = SPREAD * float(np.median(np.abs(residuals[group])))
        residuals[group] /= max(spread, MIN_SPREAD)
    return residuals


def _groups(key: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the indices of observations in groups of equal size and similar key."""
    count = max(1, min(MAX_GROUPS, len(key) // MIN_GROUP))
    return np.array_split(np.argsort(key, kind="stable"), count)


def _mean_by_clip(ids: list[str], losses: Floats, excess: Floats) -> list[TranscriptLoss]:
    names, clips = np.unique(ids, return_inverse=True)
    passes = np.bincount(clips)
    means = [np.bincount(clips, values) / passes for values in (losses, excess)]
    columns = zip(names.tolist(), *(column.tolist() for column in (*means, passes)), strict=True)
    results = [TranscriptLoss(id=a, loss=b, excess=c, passes=d) for a, b, c, d in columns]
    return sorted(results, key=lambda clip: (-clip.excess, clip.id))
