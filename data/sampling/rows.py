"""Turn an update into rows of one or several clips, each with its padded length.

Rows are part of the plan, since the encoder attends to padding: the loss must depend neither on the
number of processes that share an update, nor on their memory.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from data.batch import Position
from data.config import DataConfig
from data.labels import MAX_TOKENS
from data.log_mel import CHUNK_SECONDS, N_FRAMES
from data.sampling.epoch_plan import Plan
from data.sampling.padded_length import EDGE_FRAMES, padded_frames
from data.sampling.shape_table import silence_frames


class Row(NamedTuple):
    """One row of a batch."""

    clips: tuple[int, ...]  # indices into the manifest, joined in order
    frames: int  # padded length
    with_timestamps: bool = False  # whether the labels have timestamps
    with_prompt: bool = False  # whether the labels follow the utterance's prompt


def make_rows(
    update: Sequence[int], position: Position, plan: Plan, config: DataConfig
) -> list[Row]:
    """Return an update's rows, the longest first; with a table of shapes, all of one length.

    Args:
        update: indices into the manifest.
        position: of the update; seeds the random amount of trailing silence.
        plan: has the durations, the token counts and the seed.
        config: padding options.
    """
    if config.pad == "packed":
        windows = _pack_windows(update, position.epoch, plan)
        return [_row(clips, N_FRAMES, position.epoch, plan, config) for clips in windows]
    if plan.table is not None:
        frames = table_frames(
            plan.table.frames.item(plan.shape_number(update)), position, plan, config
        )
        return [_row([index], frames, position.epoch, plan, config) for index in update]
    edge = {index: padded_frames(plan.duration(index, position.epoch)) for index in update}
    ordered = sorted(update, key=lambda i: (-edge[i], -plan.tokens(i), i))
    edges = [edge[index] for index in ordered]
    least = min_frames(edges[0], position, plan, config)
    padded = [max(edge, least) for edge in _equalize(edges, config.max_padding)]
    return [
        _row([index], frames, position.epoch, plan, config)
        for index, frames in zip(ordered, padded, strict=True)
    ]


def _row(clips: list[int], frames: int, epoch: int, plan: Plan, config: DataConfig) -> Row:
    """Draw whether a row's labels have timestamps and a prompt; it differs between epochs."""
    if not (config.timestamp_probability or config.prompt_probability):
        return Row(tuple(clips), frames)
    rng = random.Random(f"{plan.seed} {epoch} {clips[0]} labels")
    with_timestamps, with_prompt = (
        rng.random() < config.timestamp_probability,
        rng.random() < config.prompt_probability,
    )
    with_prompt = with_prompt and plan.columns.prompts.item(clips[0]) > 0
    return Row(tuple(clips), frames, with_timestamps, with_prompt)


def min_frames(longest: int, position: Position, plan: Plan, config: DataConfig) -> int:
    """Return the minimum padded length of an update's rows, in frames: 0, 30 s, or in between.

    Trailing silence of random length teaches an encoder without an attention mask to ignore it.
    """
    if config.pad == "30s":
        return N_FRAMES
    rng = random.Random(f"{plan.seed} {position} full")
    if rng.random() < config.trailing_silence:  # the lower of two, since shorter is cheaper
        return min(rng.randrange(longest, N_FRAMES + 1, EDGE_FRAMES) for _ in range(2))
    return 0


def table_frames(frames: int, position: Position, plan: Plan, config: DataConfig) -> int:
    """Return the padded length of an update whose shape has a length in frames (fixed_shapes)."""
    longer = max(frames, min_frames(frames, position, plan, config))
    return frames if longer == frames else silence_frames(longer)


def _equalize(edges: Sequence[int], padding: float) -> list[int]:
    """Group padded lengths, in descending order, and raise each to the longest of its group.

    There are as few groups as keep the added padding within a share. Another one is split off where
    that saves most.
    """
    groups, max_frames = [list(edges)], sum(edges) * (1 + padding)

    def saved_frames(cut: tuple[int, int]) -> int:
        number, index = cut
        group = groups[number]
        return (group[0] - group[index]) * (len(group) - index)

    while sum(len(group) * group[0] for group in groups) > max_frames:
        cuts = [(n, index) for n, group in enumerate(groups) for index in range(1, len(group))]
        number, index = max(cuts, key=saved_frames)
        group = groups[number]
        groups[number : number + 1] = [group[:index], group[index:]]
    return [group[0] for group in groups for _ in group]


def _pack_windows(update: Sequence[int], epoch: int, plan: Plan) -> list[list[int]]:
    """Pack clips of one corpus and language into windows within 30 s and MAX_TOKENS.

    First-fit decreasing by duration. Within a window, clips are in the order of the update.
    """
    order = {index: number for number, index in enumerate(update)}
    seconds = {index: plan.duration(index, epoch) for index in update}
    kind = {index: plan.columns.kind.item(index) for index in update}
    windows: list[list[int]] = []
    for index in sorted(update, key=lambda i: (-seconds[i], i)):
        for window in windows:
            joined = [*window, index]
            if (
                kind[window[0]] == kind[index]
                and sum(seconds[i] for i in joined) < CHUNK_SECONDS
                and sum(plan.tokens(i) for i in joined) <= MAX_TOKENS
            ):
                window.append(index)
                break
        else:
            windows.append([index])
    return [sorted(window, key=order.__getitem__) for window in windows]
