"""ShapeTable: the few padded shapes that all forward passes of a run have (data.fixed_shapes)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from data.batch import Shape
from data.config import MAX_SECONDS_PER_FORWARD, DataConfig
from data.labels import MAX_TOKENS, PROMPT_TOKENS
from data.lazy_manifest import ManifestColumns
from data.log_mel import FRAMES_PER_SECOND, N_FRAMES
from data.sampling.buckets import MIN_UPDATES
from data.sampling.corpus_weights import mean_repetitions, mean_seconds
from data.sampling.padded_length import at_speed, padded_frames, padded_frames_of_all
from data.sampling.shape_search import Sizes, choose_shapes

LABEL_STEP = 8  # padded label lengths are multiples: efficient on tensor cores
PACKED_LABEL_STEP = 64  # of windows of several clips: few lengths, up to MAX_TOKENS
MAX_SHAPES = 30  # of full updates; the last update of an epoch may add another
# what trailing silence pads to, in frames: more lengths would be as many times the shapes
SILENCE_FRAMES = (752, 1504, 2256, N_FRAMES)

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShapeTable:
    """The shapes of full updates, none smaller than the one before.

    A clip belongs to the first shape that holds it, and an update to the largest shape of its
    clips. A full update has as many clips as its shape has rows, over all processes together.
    """

    frames: Ints
    tokens: Ints  # padded length of the labels
    rows: Ints  # clips of a full update: fewer, the larger the shape

    @classmethod
    def build(
        cls, columns: ManifestColumns, config: DataConfig, weights: Mapping[str, float]
    ) -> "ShapeTable":
        """Choose the shapes of a corpus.

        Args:
            columns: of its utterances.
            config: padding, augmentation and the budget of an update.
            weights: repetitions per epoch by corpus.
        """
        sizes = Sizes(*padded_sizes(columns, config), mean_repetitions(columns, weights))
        mean = mean_seconds(columns, weights)
        rows = partial(_rows, config=config, mean=mean)
        typical = np.array([padded_frames(mean)])
        updates = sum(sizes.counts.tolist()) / rows(typical).item()
        chosen = choose_shapes(sizes, rows, max(1, min(MAX_SHAPES, int(updates / MIN_UPDATES))))
        if config.streaming and chosen[-1] != (N_FRAMES, MAX_TOKENS):  # holds all later windows
            chosen.append((N_FRAMES, MAX_TOKENS))
        frames, tokens = np.array(chosen, dtype=np.int64).T
        table = cls(frames=frames, tokens=tokens, rows=rows(frames))
        if config.update_clips is not None:
            return table
        counted = tokens
        if config.prompt_probability:  # the budget does not count prompts
            most = np.zeros_like(tokens)
            np.maximum.at(most, table.numbers(columns, config), columns.tokens)
            counted = np.maximum.accumulate(np.maximum(most, 1))
        within = np.maximum(config.update_tokens // counted, 1)
        return replace(table, rows=np.minimum(table.rows, within))

    def shape(self, number: int) -> Shape:
        """Return the shape of a full update, over all processes together."""
        return Shape(self.rows.item(number), self.frames.item(number), self.tokens.item(number))

    def numbers(self, columns: ManifestColumns, config: DataConfig) -> NDArray[np.int8]:
        """Return the shape of each utterance, as an index into the table."""
        frames, tokens = padded_sizes(columns, config)
        by_frames = np.searchsorted(self.frames, frames)
        return np.maximum(by_frames, np.searchsorted(self.tokens, tokens)).astype(np.int8)


def _rows(frames: Ints, config: DataConfig, mean: float) -> Ints:
    """Return the clips of a full update by padded length, before label tokens limit them.

    The budget in seconds counts padded audio. With pad=30s it counts the clips' own, on average.
    """
    if config.update_clips is not None:
        return np.full_like(frames, config.update_clips)
    seconds = np.full(len(frames), mean) if config.pad == "30s" else frames / FRAMES_PER_SECOND
    return np.maximum(config.update_seconds / seconds, 1).astype(np.int64)


def padded_sizes(columns: ManifestColumns, config: DataConfig) -> tuple[Ints, Ints]:
    """Return the padded frames and the padded label length that each utterance needs at most.

    They hold a clip at any speed, and its label with timestamps and a prompt.
    """
    seconds = columns.seconds
    longest = np.max([seconds, *(at_speed(seconds, v) for v in config.augment.speed)], axis=0)
    frames = padded_frames_of_all(longest)
    if config.pad == "30s":
        frames = np.full_like(frames, N_FRAMES)
    tokens = columns.tokens.astype(np.int64) - 1  # the decoder's input lacks the last token
    if config.timestamp_probability:
        tokens += 1  # two timestamps in place of <|notimestamps|>
    if config.prompt_probability:
        tokens += np.where(columns.prompts, 1 + np.minimum(columns.prompts, PROMPT_TOKENS), 0)
    return frames, padded_tokens(tokens, LABEL_STEP)


def padded_tokens(tokens: Ints, step: int) -> Ints:
    """Return label lengths rounded up to a multiple of `step`, at most MAX_TOKENS."""
    return np.minimum(-(-np.maximum(tokens, 1) // step) * step, MAX_TOKENS)


def silence_frames(frames: int) -> int:
    """Return the length that trailing silence pads to in place of `frames`: no shorter one."""
    return next(length for length in SILENCE_FRAMES if length >= frames)


def cut_update(full: int, clips: int, most: int, world_size: int) -> tuple[int, int]:
    """Return the forward passes of an update on each process, and the rows of each on the first.

    A full update is cut into equal passes. A smaller one has passes with all rows of these, half of
    them, a quarter, and so on: rows of silence fill the last ones.

    Args:
        full: clips of a full update.
        clips: of this update.
        most: rows of a forward pass that fit in memory.
        world_size: number of processes.
    """
    share = -(-full // world_size)
    passes = -(-share // most)
    rows = -(-share // passes)
    if clips == full:
        return passes, rows
    needed = -(-clips // world_size)
    passes = -(-needed // rows)
    while rows > 1 and passes * -(-rows // 2) >= needed:
        rows = -(-rows // 2)
    return passes, rows


def fitting_rows(frames: int, tokens: int, config: DataConfig) -> int:
    """Return the rows of a forward pass that fit in memory, at least 1.

    Args:
        frames: padded length.
        tokens: padded label length.
        config: has the limits.
    """
    seconds = frames / FRAMES_PER_SECOND
    if config.quadratic_memory_seconds is not None:
        seconds += seconds**2 / config.quadratic_memory_seconds
    limit = config.max_seconds_per_forward or MAX_SECONDS_PER_FORWARD
    return max(1, min(int(limit / seconds), config.max_tokens_per_forward // tokens))
