"""How large the passes of an update can be, without drawing them: to find the largest of an epoch.

To draw all passes of two million clips takes ten seconds and more, of each process. Bounds from
columns take one, and leave a few updates in a hundred that can hold the largest.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.batch import Position, Shape
from data.config import MAX_SECONDS_PER_FORWARD, DataConfig
from data.labels import MAX_TOKENS, PROMPT_TOKENS
from data.log_mel import CHUNK_SECONDS, FRAMES_PER_SECOND, N_FRAMES
from data.sampling.epoch_plan import EpochUpdates, Plan, all_edges
from data.sampling.rows import least_frames

Ints = NDArray[np.int64]


def bound_shapes(plan: Plan, config: DataConfig, world: int) -> list[Shape]:
    """Return a shape for each update of the first epoch that no pass of it is larger than.

    Args:
        plan: says what is in an update.
        config: how it is padded and cut.
        world: number of processes that share it.
    """
    updates = plan.updates(0)
    shortest, longest = _edges(plan, updates)
    fewest, most = _tokens(plan, updates, config)
    least = _least(plan, updates, config, longest)
    frames = np.maximum(longest, least)
    clips = np.diff(updates.starts)
    if config.pad == "packed":  # each window has at least one clip
        shortest = frames = np.full_like(frames, N_FRAMES)
        most = np.maximum(most, np.minimum(_sums(plan.outline.tokens, updates), MAX_TOKENS))
        most += 2 * clips if config.timestamp_probability else 0
    rows = np.minimum(-(-clips // world), _fitting(np.maximum(shortest, least), fewest, config))
    table = np.stack([rows, frames, np.maximum(most, 1)], axis=1)[updates.order]
    return [Shape(*row) for row in table.tolist()]


def _edges(plan: Plan, updates: EpochUpdates) -> tuple[Ints, Ints]:
    """Return the frames of the shortest and the longest clip of each update."""
    seconds = plan.outline.seconds
    heard = [seconds]  # at each speed; as recorded where it would be too long
    heard += [np.where(seconds / v < CHUNK_SECONDS, seconds / v, seconds) for v in plan.speeds]
    low, high = all_edges(np.min(heard, axis=0)), all_edges(np.max(heard, axis=0))
    begins = updates.starts[:-1]
    return (
        np.minimum.reduceat(low[updates.clips], begins),
        np.maximum.reduceat(high[updates.clips], begins),
    )


def _tokens(plan: Plan, updates: EpochUpdates, config: DataConfig) -> tuple[Ints, Ints]:
    """Return the fewest tokens that a row of each update may have, and the most."""
    fewest = plan.outline.tokens.astype(np.int64)
    most = fewest + 2 if config.timestamp_probability else fewest
    if config.prompt_probability:
        most = most + 1 + np.minimum(plan.outline.prompts, PROMPT_TOKENS)
    begins = updates.starts[:-1]
    return (
        np.minimum.reduceat(fewest[updates.clips], begins),
        np.maximum.reduceat(most[updates.clips], begins),
    )


def _sums(values: NDArray[np.int32], updates: EpochUpdates) -> Ints:
    sums: Ints = np.add.reduceat(values[updates.clips].astype(np.int64), updates.starts[:-1])
    return sums


def _least(plan: Plan, updates: EpochUpdates, config: DataConfig, longest: Ints) -> Ints:
    """Return the frames that rows of each update have at least, or more than that."""
    if config.pad == "30s" or (config.trailing_silence and plan.speeds):
        return np.full_like(longest, N_FRAMES if config.pad != "packed" else 0)
    least = np.zeros_like(longest)
    if config.pad == "bucket" and config.trailing_silence:
        order: Sequence[int] = updates.order.tolist()
        for number, place in enumerate(order):
            at = Position(0, number)
            least[place] = least_frames(int(longest[place]), at, plan, config)
    return least


def _fitting(frames: Ints, tokens: Ints, config: DataConfig) -> Ints:
    """Return how many rows a pass may hold of no fewer frames and tokens than these."""
    seconds = frames / FRAMES_PER_SECOND
    if config.quadratic_memory_seconds is not None:
        seconds = seconds + seconds**2 / config.quadratic_memory_seconds
    most = config.max_seconds_per_forward or MAX_SECONDS_PER_FORWARD
    fitting = np.minimum(
        most / seconds * (1 + 1e-9), config.max_tokens_per_forward / np.maximum(tokens, 1)
    )
    return np.maximum(fitting.astype(np.int64), 1)
