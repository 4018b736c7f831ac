"""The plan of an epoch: a list of updates, each a list of indices into the manifest.

It is a pure function of (seed, epoch, manifest, budget) and does not know how many processes or
workers there are, nor how much memory one has, so any of these may change between two starts.
"""

import random
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import overload

import numpy as np
from numpy.typing import NDArray

from data.config import DataConfig
from data.lazy_manifest import ManifestColumns
from data.log_mel import CHUNK_SECONDS, FRAMES_PER_SECOND, N_FRAMES, frames_of
from data.sampling.corpus_weights import mean_seconds, times_of, weights_of
from data.utterance import Utterance

EDGE_FRAMES = 16  # edges are multiples of this: 8 encoder positions, as tensor cores like it
WHOLE_WINDOWS = ("30s", "packed")  # ways to pad that leave no reason to sort by length
LEAST_UPDATES = 2  # a bucket should hold, or an epoch's updates would hold the same clips again


class EpochUpdates(Sequence[list[int]]):
    """The updates of an epoch, in four bytes a clip: as lists of lists they would take forty."""

    def __init__(
        self, clips: NDArray[np.int32], starts: NDArray[np.int64], order: NDArray[np.int64]
    ) -> None:
        """Take the clips of one update after another.

        Args:
            clips: indices into the manifest.
            starts: where each update begins in them, and where the last one ends.
            order: the updates in the order in which they are made, as places in `starts`.
        """
        self.clips = clips
        self.starts = starts
        self.order = order

    def __len__(self) -> int:
        """Return the number of updates."""
        return len(self.order)

    @overload
    def __getitem__(self, number: int) -> list[int]: ...

    @overload
    def __getitem__(self, number: slice) -> list[list[int]]: ...

    def __getitem__(self, number: int | slice) -> list[int] | list[list[int]]:
        """Return the clips of an update, or of several."""
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        place = self.order.item(number)
        begin, end = self.starts[place : place + 2].tolist()
        clips: list[int] = self.clips[begin:end].tolist()
        return clips


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """Draws the updates of any epoch."""

    outline: ManifestColumns  # of the utterances
    weights: Mapping[str, float]  # how often an epoch hears a corpus; once where it is not named
    buckets: Sequence[NDArray[np.int32]]  # utterances of similar length and number of tokens
    mean_seconds: float  # of what epochs hear
    update_seconds: float
    update_tokens: int
    update_clips: int | None
    speeds: Sequence[float]  # one is drawn for each hearing; none: as recorded
    seed: int

    @classmethod
    def of(cls, utterances: Sequence[Utterance], config: DataConfig, seed: int) -> "Plan":
        """Make the plan of a manifest."""
        outline = ManifestColumns.of(utterances)
        weights = weights_of(outline, config)
        return cls(
            outline=outline,
            weights=weights,
            buckets=make_buckets(outline.seconds, outline.tokens, config),
            mean_seconds=mean_seconds(outline, weights),
            update_seconds=config.update_seconds,
            update_tokens=config.update_tokens,
            update_clips=config.update_clips,
            speeds=config.augment.speed,
            seed=seed,
        )

    def updates(self, epoch: int) -> EpochUpdates:
        """Return an epoch's updates: every utterance as often as it is due, similar ones together.

        What is left over in each bucket is cut, still in order of length, into updates of its own.
        """
        return _draw(self, epoch)

    def seconds(self, index: int) -> float:
        """Return how long an utterance is, in seconds."""
        return self.outline.seconds.item(index)

    def tokens(self, index: int) -> int:
        """Return an utterance's label tokens."""
        return self.outline.tokens.item(index)

    def speed(self, index: int, epoch: int) -> float:
        """Return the speed at which an epoch hears an utterance; none grows too long by it."""
        if not self.speeds:
            return 1.0
        drawn = random.Random(f"{self.seed} {epoch} {index} speed").choice(self.speeds)
        return drawn if self.seconds(index) / drawn < CHUNK_SECONDS else 1.0

    def heard(self, index: int, epoch: int) -> float:
        """Return how long an utterance is in an epoch, in seconds."""
        return self.seconds(index) / self.speed(index, epoch)

    def length(self, epochs: int) -> int:
        """Return the number of updates in some epochs, counted from the first."""
        return sum(len(self.updates(epoch)) for epoch in range(epochs))

    def cut(self, clips: list[int]) -> list[int]:
        """Return where each group begins of clips cut within the budget; one over it is a group."""
        if self.update_clips is not None:
            return list(range(0, len(clips), self.update_clips)) or [0]
        most_seconds, most_tokens = self.update_seconds, self.update_tokens
        lengths = zip(
            self.outline.seconds[clips].tolist(), self.outline.tokens[clips].tolist(), strict=True
        )
        starts, seconds, tokens = [0], 0.0, 0
        for place, (more_seconds, more_tokens) in enumerate(lengths):
            seconds += more_seconds
            tokens += more_tokens
            if place > starts[-1] and (seconds > most_seconds or tokens > most_tokens):
                starts.append(place)
                seconds, tokens = more_seconds, more_tokens
        return starts


@lru_cache(maxsize=2)  # a start asks for its first epoch several times: 1 s for a million clips
def _draw(plan: Plan, epoch: int) -> EpochUpdates:
    rng = random.Random(f"{plan.seed} {epoch}")
    times = times_of(plan.outline, plan.weights, plan.seed, epoch) if plan.weights else None
    clips, starts = array("i"), array("q")
    rest: list[int] = []
    for indices in plan.buckets:
        due = indices if times is None else np.repeat(indices, times[indices])
        bucket: list[int] = due.tolist()
        rng.shuffle(bucket)
        *begins, last = plan.cut(bucket)
        starts.extend(len(clips) + begin for begin in begins)
        clips.extend(bucket[:last])
        rest += bucket[last:]
    if rest:
        starts.extend(len(clips) + begin for begin in plan.cut(rest))
        clips.extend(rest)
    order = list(range(len(starts)))
    rng.shuffle(order)
    starts.append(len(clips))
    return EpochUpdates(np.array(clips), np.array(starts), np.array(order, dtype=np.int64))


def make_buckets(
    seconds: NDArray[np.float64], tokens: NDArray[np.int32], config: DataConfig
) -> list[NDArray[np.int32]]:
    """Sort utterances into buckets of two dimensions: by length, and within that by tokens.

    The decoder pads too: clips of one length differ in their tokens by more than in anything else
    (lhotse's and NeMo's 2-D buckets).

    Returns:
        Indices of utterances, shorter ones first; no bucket is empty.
    """

    def updates(held: NDArray[np.float64]) -> float:
        if config.update_clips is not None:
            return len(held) / config.update_clips
        return sum(held.tolist()) / config.update_seconds  # one by one: numpy sums in pairs

    if config.pad in WHOLE_WINDOWS:
        return [np.arange(len(seconds), dtype=np.int32)]
    most = max(1, min(config.buckets, int(updates(seconds) / LEAST_UPDATES)))
    edges = bucket_edges(seconds, most)
    by_tokens = np.argsort(tokens, kind="stable").astype(np.int32)
    place = np.searchsorted(edges, all_frames(seconds))[by_tokens]
    ordered = by_tokens[np.argsort(place, kind="stable")]
    ends = np.cumsum(np.bincount(place, minlength=len(edges)))
    buckets = []
    for held in filter(len, np.split(ordered, ends[:-1])):
        parts = max(1, min(config.token_buckets, int(updates(seconds[held]) / LEAST_UPDATES)))
        cuts = [len(held) * part // parts for part in range(parts + 1)]
        buckets += [held[a:b] for a, b in pairwise(cuts)]
    return buckets


def bucket_edges(seconds: NDArray[np.float64], buckets: int) -> list[int]:
    """Return edges, in frames, between which equal amounts of audio lie.

    A clip of n frames belongs to the first bucket whose edge is n or more; the last edge holds the
    longest clip.
    """
    ordered = np.sort(seconds)
    totals = np.cumsum(ordered)  # adds one by one
    share = sum(ordered.tolist()) / buckets
    edges: list[int] = []
    place = -1  # of the clip that the last edge was made for
    while True:
        reached = np.searchsorted(totals, share * (len(edges) + 1) * (1 - 1e-9))
        place = max(place + 1, int(reached))
        if place >= len(ordered):
            return sorted({*edges, edge_of(ordered.item(-1))})
        edges.append(edge_of(ordered.item(place)))


def edge_of(seconds: float) -> int:
    """Return the frames that hold some seconds, rounded up to an edge."""
    return min(-(-frames_of(seconds) // EDGE_FRAMES) * EDGE_FRAMES, N_FRAMES)


def all_frames(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return frames_of() of each."""
    return np.ceil(seconds * FRAMES_PER_SECOND).astype(np.int64)


def all_edges(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return edge_of() of each."""
    return np.minimum(-(-all_frames(seconds) // EDGE_FRAMES) * EDGE_FRAMES, N_FRAMES)
