"""Upper bounds of the shapes of forward passes, to find an epoch's largest one quickly.

Forming all forward passes of two million clips takes each process ten seconds or more. Bounds from
the manifest's columns take one, and leave a few percent of the updates as candidates.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.batch import Position, Shape
from data.config import MAX_SECONDS_PER_FORWARD, DataConfig
from data.labels import MAX_TOKENS, PROMPT_TOKENS
from data.log_mel import FRAMES_PER_SECOND, N_FRAMES
from data.sampling.epoch_plan import EpochUpdates, Plan
from data.sampling.padded_length import at_speed, padded_frames_of_all
from data.sampling.rows import min_frames, table_frames
from data.sampling.shape_table import (
    PACKED_LABEL_STEP,
    ShapeTable,
    cut_update,
    fitting_rows,
    padded_tokens,
)

Ints = NDArray[np.int64]


def bound_shapes(plan: Plan, config: DataConfig, world_size: int) -> list[Shape]:
    """Return an upper bound of the shapes of forward passes, for each update of the first epoch.

    Args:
        plan: has the updates.
        config: how they are padded and cut.
        world_size: number of processes that share an update.
    """
    if plan.table is not None:
        return _table_shapes(plan, plan.table, config, world_size)
    updates = plan.updates(0)
    shortest, longest = _edges(plan, updates)
    min_tokens, max_tokens = _tokens(plan, updates, config)
    least = _min_frames(plan, updates, config, longest)
    frames = np.maximum(longest, least)
    clips = np.diff(updates.starts)
    if config.pad == "packed":  # each window has at least one clip
        shortest = frames = np.full_like(frames, N_FRAMES)
        sums = _sums_by_update(plan.columns.tokens, updates)
        max_tokens = np.maximum(max_tokens, np.minimum(sums, MAX_TOKENS))
        max_tokens += 2 * clips if config.timestamp_probability else 0
        if config.fixed_shapes:
            max_tokens = padded_tokens(max_tokens, PACKED_LABEL_STEP)
    fitting = _max_rows(np.maximum(shortest, least), min_tokens, config)
    rows = np.minimum(-(-clips // world_size), fitting)
    table = np.stack([rows, frames, np.maximum(max_tokens, 1)], axis=1)[updates.order]
    return [Shape(*row) for row in table.tolist()]


def _table_shapes(
    plan: Plan, table: ShapeTable, config: DataConfig, world_size: int
) -> list[Shape]:
    """Return the first process's shape of each update, of which no process has a larger one."""
    updates = plan.updates(0)
    numbers = np.maximum.reduceat(plan.shape_numbers[updates.clips], updates.starts[:-1])
    clips = np.diff(updates.starts)
    shapes = []
    for update, index in enumerate(updates.order.tolist()):
        number = numbers.item(index)
        full, tokens = table.rows.item(number), table.tokens.item(number)
        frames = table_frames(table.frames.item(number), Position(0, update), plan, config)
        most = fitting_rows(frames, tokens, config)
        _, rows = cut_update(full, clips.item(index), most, world_size)
        shapes.append(Shape(rows, frames, tokens))
    return shapes


def _edges(plan: Plan, updates: EpochUpdates) -> tuple[Ints, Ints]:
    """Return the padded frames of the shortest and the longest clip of each update."""
    seconds = plan.columns.seconds
    durations = [seconds]  # at each speed, unless too long at it
    durations += [at_speed(seconds, speed) for speed in plan.speeds]
    low = padded_frames_of_all(np.min(durations, axis=0))
    high = padded_frames_of_all(np.max(durations, axis=0))
    begins = updates.starts[:-1]
    return (
        np.minimum.reduceat(low[updates.clips], begins),
        np.maximum.reduceat(high[updates.clips], begins),
    )


def _tokens(plan: Plan, updates: EpochUpdates, config: DataConfig) -> tuple[Ints, Ints]:
    """Return the minimum and the maximum tokens that a row of each update may have."""
    min_tokens = plan.columns.tokens.astype(np.int64)
    max_tokens = min_tokens + 2 if config.timestamp_probability else min_tokens
    if config.prompt_probability:
        max_tokens = max_tokens + 1 + np.minimum(plan.columns.prompts, PROMPT_TOKENS)
    begins = updates.starts[:-1]
    return (
        np.minimum.reduceat(min_tokens[updates.clips], begins),
        np.maximum.reduceat(max_tokens[updates.clips], begins),
    )


def _sums_by_update(values: NDArray[np.int32], updates: EpochUpdates) -> Ints:
    sums: Ints = np.add.reduceat(values[updates.clips].astype(np.int64), updates.starts[:-1])
    return sums


def _min_frames(plan: Plan, updates: EpochUpdates, config: DataConfig, longest: Ints) -> Ints:
    """Return the minimum padded length of each update's rows, or an upper bound of it."""
    if config.pad == "30s" or (config.trailing_silence and plan.speeds):
        return np.full_like(longest, N_FRAMES if config.pad != "packed" else 0)
    least = np.zeros_like(longest)
    if config.pad == "bucket" and config.trailing_silence:
        order: Sequence[int] = updates.order.tolist()
        for number, index in enumerate(order):
            position = Position(0, number)
            least[index] = min_frames(int(longest[index]), position, plan, config)
    return least


def _max_rows(frames: Ints, tokens: Ints, config: DataConfig) -> Ints:
    """Return the maximum rows of a forward pass with at least these frames and tokens."""
    seconds = frames / FRAMES_PER_SECOND
    if config.quadratic_memory_seconds is not None:
        seconds = seconds + seconds**2 / config.quadratic_memory_seconds
    limit = config.max_seconds_per_forward or MAX_SECONDS_PER_FORWARD
    fitting = np.minimum(
        limit / seconds * (1 + 1e-9), config.max_tokens_per_forward / np.maximum(tokens, 1)
    )
    return np.maximum(fitting.astype(np.int64), 1)
