"""What the encoder hears of an update: rows of one clip or several, and what each is padded to.

Part of the plan, since the encoder hears the padding: the loss must depend neither on how many
processes share an update, nor on how much memory each of them has.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from data.batch import Position
from data.config import DataConfig
from data.labels import MAX_TOKENS
from data.log_mel import CHUNK_SECONDS, N_FRAMES
from data.sampling.epoch_plan import EDGE_FRAMES, Plan, edge_of


class Row(NamedTuple):
    """One line of a batch."""

    clips: tuple[int, ...]  # indices into the manifest, said one after another
    frames: int  # what it is padded to
    timed: bool = False  # whether its labels hold times
    prompted: bool = False  # whether what was said before stands before its labels


def rows_of(update: Sequence[int], at: Position, plan: Plan, config: DataConfig) -> list[Row]:
    """Return an update's rows, the longest first.

    Args:
        update: indices into the manifest.
        at: the update's position, by which it is settled whether more silence follows.
        plan: knows the lengths, and the seed.
        config: how to pad.
    """
    if config.pad == "packed":
        windows = _pack(update, at.epoch, plan)
        return [_row(clips, N_FRAMES, at.epoch, plan, config) for clips in windows]
    edge = {index: edge_of(plan.heard(index, at.epoch)) for index in update}
    ordered = sorted(update, key=lambda i: (-edge[i], -plan.tokens(i), i))
    edges = [edge[index] for index in ordered]
    least = least_frames(edges[0], at, plan, config)
    padded = [max(edge, least) for edge in _level(edges, config.max_padding)]
    return [
        _row([index], frames, at.epoch, plan, config)
        for index, frames in zip(ordered, padded, strict=True)
    ]


def _row(clips: list[int], frames: int, epoch: int, plan: Plan, config: DataConfig) -> Row:
    """Settle how a row's labels are written; it is drawn anew in each epoch."""
    if not (config.timestamp_probability or config.prompt_probability):
        return Row(tuple(clips), frames)
    draw = random.Random(f"{plan.seed} {epoch} {clips[0]} labels")
    timed, prompted = (
        draw.random() < config.timestamp_probability,
        draw.random() < config.prompt_probability,
    )
    return Row(tuple(clips), frames, timed, prompted and plan.outline.prompts.item(clips[0]) > 0)


def least_frames(longest: int, at: Position, plan: Plan, config: DataConfig) -> int:
    """Return the frames that every row of an update has at least: 0, 30 s, or a length between.

    Silence of any length behind short audio teaches an encoder without a mask to ignore it.
    """
    if config.pad == "30s":
        return N_FRAMES
    draw = random.Random(f"{plan.seed} {at} full")
    if draw.random() < config.trailing_silence:  # the lower of two: short ones are cheap
        return min(draw.randrange(longest, N_FRAMES + 1, EDGE_FRAMES) for _ in range(2))
    return 0


def _level(edges: Sequence[int], padding: float) -> list[int]:
    """Raise each edge, of those in falling order, to the longest of its pass.

    As few passes as keep what that adds within a share: one more is begun where it saves most.
    """
    passes, most = [list(edges)], sum(edges) * (1 + padding)

    def saved(cut: tuple[int, int]) -> int:
        number, place = cut
        one = passes[number]
        return (one[0] - one[place]) * (len(one) - place)

    while sum(len(one) * one[0] for one in passes) > most:
        cuts = [(n, place) for n, one in enumerate(passes) for place in range(1, len(one))]
        number, place = max(cuts, key=saved)
        one = passes[number]
        passes[number : number + 1] = [one[:place], one[place:]]
    return [one[0] for one in passes for _ in one]


def _pack(update: Sequence[int], epoch: int, plan: Plan) -> list[list[int]]:
    """Join clips of one corpus and language into windows of 30 s and no more tokens than fit.

    The longest first, each where it fits first; within a window in the order of the update.
    """
    place = {index: number for number, index in enumerate(update)}
    seconds = {index: plan.heard(index, epoch) for index in update}
    kind = {index: plan.outline.kind.item(index) for index in update}
    windows: list[list[int]] = []
    for index in sorted(update, key=lambda i: (-seconds[i], i)):
        for window in windows:
            held = [*window, index]
            if (
                kind[window[0]] == kind[index]
                and sum(seconds[i] for i in held) < CHUNK_SECONDS
                and sum(plan.tokens(i) for i in held) <= MAX_TOKENS
            ):
                window.append(index)
                break
        else:
            windows.append([index])
    return [sorted(window, key=place.__getitem__) for window in windows]
