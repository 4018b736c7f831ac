"""Padded lengths of clips, in frames."""

import math
from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from data.log_mel import CHUNK_SECONDS, FRAMES_PER_SECOND, N_FRAMES, frames_of

EDGE_FRAMES = 16  # padded lengths are multiples: 8 encoder positions, efficient on tensor cores
# of evaluations, each about 1.41 times the one before: real corpora are padded by 14 to 21 %
EVALUATION_FRAMES = sorted(
    min(math.ceil(N_FRAMES / 2 ** (k / 2) / EDGE_FRAMES) * EDGE_FRAMES, N_FRAMES) for k in range(16)
)


def padded_frames(seconds: float) -> int:
    """Return the frames of a duration in seconds, rounded up to a multiple of EDGE_FRAMES."""
    return min(-(-frames_of(seconds) // EDGE_FRAMES) * EDGE_FRAMES, N_FRAMES)


def evaluation_frames(seconds: float) -> int:
    """Return the frames that an evaluation at true length pads a duration in seconds to.

    They depend on no other clip: if a batch were padded to its longest clip, its texts would
    depend on the size of batches.
    """
    return EVALUATION_FRAMES[bisect_left(EVALUATION_FRAMES, padded_frames(seconds))]


def frames_of_all(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return frames_of() of each duration."""
    return np.ceil(seconds * FRAMES_PER_SECOND).astype(np.int64)


def padded_frames_of_all(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return padded_frames() of each duration."""
    return np.minimum(-(-frames_of_all(seconds) // EDGE_FRAMES) * EDGE_FRAMES, N_FRAMES)


def at_speed(seconds: NDArray[np.float64], speed: float) -> NDArray[np.float64]:
    """Return durations at a speed; unchanged where they would become too long."""
    return np.where(seconds / speed < CHUNK_SECONDS, seconds / speed, seconds)
