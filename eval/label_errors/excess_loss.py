"""Clips that cost training more than their like: what losses.jsonl of a run tells."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.atomic_files import read_jsonl
from data.errors import InputError

LOSSES = "losses.jsonl"
ALIKE = 100  # hearings that are compared, at least: alike in length, or near in time
PARTS = 50  # that hearings are cut into, at most
ROUNDS = 3  # length and time are mixed in the plan: what is taken off one shifts the other
SPREAD = 1.4826  # of a normal distribution, in median absolute deviations
LEAST_SPREAD = 1e-3  # nats a token; where all are equal nothing is unusual

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscriptLoss:
    """What a clip's transcript cost in training."""

    id: str
    loss: float  # nats a token, mean over hearings
    excess: float  # the same against clips alike, in robust standard deviations
    hearings: int


def costs(run: Path) -> list[TranscriptLoss]:
    """Return what every clip of a run cost, the most unusual first.

    A short text costs more a token than a long one, and all cost more before training than after.
    Both are taken off: each hearing is held against those of like length and near in time.

    Raises:
        InputError: the folder is not a run's, or no update of it was written down.
    """
    path = run / LOSSES
    if not path.is_file():
        raise InputError(f"{path}: no such file: give the folder of a run that has trained")
    rows = list(read_jsonl(path))
    ids = [name for row in rows for name in row["ids"]]
    if not ids:
        raise InputError(f"{path}: holds no clip yet: wait for the run's first log line")
    steps = np.array([row["step"] for row in rows for _ in row["ids"]])
    tokens = np.array([count for row in rows for count in row["tokens"]])
    losses = np.array([nll for row in rows for nll in row["nll"]]) / tokens
    return _by_clip(ids, losses, excesses(losses, tokens, steps))


def excesses(losses: Floats, tokens: NDArray[np.int64], steps: NDArray[np.int64]) -> Floats:
    """Return how far each hearing's loss is above those of its like, in robust deviations.

    Args:
        losses: of each hearing, nats a token.
        tokens: of its transcript.
        steps: the update of each.
    """
    left = losses.copy()
    for _ in range(ROUNDS):
        for key in (tokens, steps):
            for part in _parts(key):
                left[part] -= np.median(left[part])
    for part in _parts(tokens):
        left[part] -= np.median(left[part])
        left[part] /= max(SPREAD * float(np.median(np.abs(left[part]))), LEAST_SPREAD)
    return left


def _parts(key: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the places of hearings that are alike, in parts of like size."""
    count = max(1, min(PARTS, len(key) // ALIKE))
    return np.array_split(np.argsort(key, kind="stable"), count)


def _by_clip(ids: list[str], losses: Floats, excess: Floats) -> list[TranscriptLoss]:
    names, clips = np.unique(ids, return_inverse=True)
    hearings = np.bincount(clips)
    means = [np.bincount(clips, each) / hearings for each in (losses, excess)]
    columns = zip(names.tolist(), *(each.tolist() for each in (*means, hearings)), strict=True)
    found = [TranscriptLoss(id=a, loss=b, excess=c, hearings=d) for a, b, c, d in columns]
    return sorted(found, key=lambda cost: (-cost.excess, cost.id))
