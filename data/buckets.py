"""The plan of an epoch, and one process's forward passes of it.

The plan is a list of updates, each a list of indices into the manifest: a pure function of
(seed, epoch, manifest, budget). It does not know how many processes or workers there are, nor how
much memory one has, so any of these may change between two starts of a run.
"""

import random
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import count, islice
from typing import NamedTuple

from torch.utils.data import Sampler

from data.config import DataConfig
from data.features import CHUNK_SECONDS, FRAMES_PER_SECOND, N_FRAMES, frames_of
from data.utterance import Position, Utterance

EDGE_FRAMES = 16  # edges are multiples of this: 8 encoder positions, as tensor cores like it


class Draw(NamedTuple):
    """One clip of a pass."""

    clip: int | None  # an index into the manifest; None: silence without weight
    at: Position  # of this clip's update in the plan
    after: Position  # where training goes on after this clip's update
    last: bool  # whether this pass is its update's last
    frames: int  # what its pass is padded to: the same in all passes of an update, since the
    # encoder hears the silence, and the loss must not depend on how an update is cut


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Draws the updates of any epoch."""

    seconds: Sequence[float]  # of each utterance
    tokens: Sequence[int]
    edges: Sequence[int]  # bucket edges in frames
    update_seconds: float
    update_tokens: int
    update_clips: int | None
    seed: int

    @classmethod
    def of(cls, utterances: Sequence[Utterance], config: DataConfig, seed: int) -> "Plan":
        """Make the plan of a manifest."""
        seconds = [u.seconds for u in utterances]
        if config.update_clips is not None:
            updates = len(seconds) / config.update_clips
        else:
            updates = sum(seconds) / config.update_seconds
        return cls(
            seconds=seconds,
            tokens=[u.tokens for u in utterances],
            edges=bucket_edges(seconds, max(1, min(config.buckets, int(updates / 2)))),
            update_seconds=config.update_seconds,
            update_tokens=config.update_tokens,
            update_clips=config.update_clips,
            seed=seed,
        )

    def updates(self, epoch: int) -> list[list[int]]:
        """Return an epoch's updates: every utterance once, clips of similar length together.

        What is left over in each bucket is cut, still in order of length, into updates of its own.
        """
        rng = random.Random(f"{self.seed} {epoch}")
        updates: list[list[int]] = []
        rest: list[int] = []
        for bucket in self._buckets():
            rng.shuffle(bucket)
            cut = self._cut(bucket)
            updates += cut[:-1]
            rest += cut[-1]
        updates += self._cut(rest)
        rng.shuffle(updates)
        return updates

    def length(self, epochs: int) -> int:
        """Return the number of updates in some epochs, counted from the first."""
        return sum(len(self.updates(epoch)) for epoch in range(epochs))

    def edge(self, update: Sequence[int]) -> int:
        """Return the edge, in frames, of the bucket that holds an update's longest clip."""
        longest = max(frames_of(self.seconds[index]) for index in update)
        return self.edges[bisect_left(self.edges, longest)]

    def _buckets(self) -> list[list[int]]:
        buckets: list[list[int]] = [[] for _ in self.edges]
        for index, seconds in enumerate(self.seconds):
            buckets[bisect_left(self.edges, frames_of(seconds))].append(index)
        return [bucket for bucket in buckets if bucket]

    def _cut(self, indices: Sequence[int]) -> list[list[int]]:
        """Cut into groups within the budget; a clip over it on its own is a group."""
        groups: list[list[int]] = [[]]
        seconds, tokens = 0.0, 0
        for index in indices:
            seconds += self.seconds[index]
            tokens += self.tokens[index]
            if groups[-1] and self._exceeds(len(groups[-1]) + 1, seconds, tokens):
                groups.append([])
                seconds, tokens = self.seconds[index], self.tokens[index]
            groups[-1].append(index)
        return groups

    def _exceeds(self, clips: int, seconds: float, tokens: int) -> bool:
        if self.update_clips is not None:
            return clips > self.update_clips
        return seconds > self.update_seconds or tokens > self.update_tokens


def bucket_edges(seconds: Sequence[float], buckets: int) -> list[int]:
    """Return edges, in frames, between which equal amounts of audio lie.

    A clip of n frames belongs to the first bucket whose edge is n or more; the last edge holds the
    longest clip.
    """
    ordered = sorted(seconds)
    share = sum(ordered) / buckets
    edges: list[int] = []
    total = 0.0
    for clip in ordered:
        total += clip
        if total >= share * (len(edges) + 1) * (1 - 1e-9):
            edges.append(_round_up(clip))
    return sorted({*edges, _round_up(ordered[-1])})


def _round_up(seconds: float) -> int:
    return min(-(-frames_of(seconds) // EDGE_FRAMES) * EDGE_FRAMES, N_FRAMES)


@dataclass(eq=False)
class BucketedBatchSampler(Sampler[list[Draw]]):
    """Yields the forward passes of one process, from any position on, epoch after epoch.

    Clip i of an update belongs to process i modulo their number. All processes make as many passes
    an update as the one that needs most; the others make up with silence of no weight, since a
    process that skipped a pass would leave the rest waiting in the gradient's all-reduce.
    """

    plan: Plan
    config: DataConfig  # `pass_seconds` and `pad` cut an update into passes
    _: KW_ONLY
    updates: int  # how many to draw
    start: Position = Position()  # noqa: RUF009 - immutable; reached without decoding
    rank: int = 0  # of this process
    world: int = 1  # number of processes
    # updates that are not drawn and not counted. A position may name one, since `after` is the
    # plan's next: drawing from there begins with the first update that is not among them
    passed_over: Collection[Position] = ()

    def __post_init__(self) -> None:
        """Settle how often an update is padded to 30 s."""
        # the share is of the compute: an update at 30 s costs as much more as a clip is shorter
        share = self.config.padded_share
        mean = sum(self.plan.seconds) / len(self.plan.seconds)
        self._chance = share / (share + (1 - share) * CHUNK_SECONDS / mean)

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield passes, each a list of draws."""
        for update, at, after in islice(self._updates(), self.updates):
            yield from self._draws(update, at, after)

    def _updates(self) -> Iterator[tuple[list[int], Position, Position]]:
        """Yield updates from the start on, for ever, each with its position and the next one's."""
        first = self.start.update
        for epoch in count(self.start.epoch):
            updates = self.plan.updates(epoch)
            for number in range(first, len(updates)):
                at, ends = Position(epoch, number), number + 1 == len(updates)
                after = Position(epoch + 1, 0) if ends else Position(epoch, number + 1)
                if at not in self.passed_over:
                    yield updates[number], at, after
            first = 0

    def _draws(self, update: list[int], at: Position, after: Position) -> Iterator[list[Draw]]:
        frames = self._frames(update, at)
        size = max(1, int(self.config.pass_seconds * FRAMES_PER_SECOND // frames))  # clips a pass
        most = -(-len(update[:: self.world]) // size)  # passes of the largest share, the first
        mine: Sequence[int | None] = update[self.rank :: self.world]
        for number in range(most):
            clips = mine[number * size : (number + 1) * size] or [None]
            yield [Draw(clip, at, after, number == most - 1, frames) for clip in clips]

    def _frames(self, update: list[int], at: Position) -> int:
        """Return what an update is padded to: its bucket's edge, 30 s, or a length between.

        Silence of any length behind short audio teaches an encoder without a mask to ignore it.
        """
        edge, draw = self.plan.edge(update), random.Random(f"{self.plan.seed} {at} full")
        if self.config.pad == "30s" or (
            self.config.pad == "mixed" and draw.random() < self._chance
        ):
            return N_FRAMES
        if draw.random() < self.config.trailing_silence:  # the lower of two: short ones are cheap
            return min(draw.randrange(edge, N_FRAMES + 1, EDGE_FRAMES) for _ in range(2))
        return edge
