"""The plan of an epoch: a list of updates, each a list of indices into the manifest.

It is a pure function of (seed, epoch, manifest, budget). It does not depend on the number of
processes or workers, nor on their memory, so these may change when a run is resumed.
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
from data.sampling.corpus_weights import mean_seconds, repetitions_of, weights_of
from data.utterance import Utterance

EDGE_FRAMES = 16  # padded lengths are multiples: 8 encoder positions, efficient on tensor cores
WHOLE_WINDOWS = ("30s", "packed")  # values of data.pad for which length does not matter
MIN_UPDATES = 2  # per bucket, so that updates mix clips differently in each epoch


class EpochUpdates(Sequence[list[int]]):
    """The updates of an epoch, at four bytes per clip; lists of lists would take forty."""

    def __init__(
        self, clips: NDArray[np.int32], starts: NDArray[np.int64], order: NDArray[np.int64]
    ) -> None:
        """Store the concatenated clips of all updates.

        Args:
            clips: indices into the manifest.
            starts: offset of each update in clips, and the end of the last one.
            order: the updates as indices into starts, in the order of training.
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
        """Return the clips of one update or of a slice."""
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        index = self.order.item(number)
        begin, end = self.starts[index : index + 2].tolist()
        clips: list[int] = self.clips[begin:end].tolist()
        return clips


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """Draws the updates of any epoch."""

    columns: ManifestColumns  # of the utterances
    weights: Mapping[str, float]  # repetitions per epoch by corpus; others have one
    buckets: Sequence[NDArray[np.int32]]  # utterances of similar duration and token count
    mean_seconds: float  # of an epoch's clips
    update_seconds: float
    update_tokens: int
    update_clips: int | None
    speeds: Sequence[float]  # one is drawn per clip and epoch; empty: unchanged
    seed: int

    @classmethod
    def from_utterances(
        cls, utterances: Sequence[Utterance], config: DataConfig, seed: int
    ) -> "Plan":
        """Build the plan of a manifest."""
        columns = ManifestColumns.from_utterances(utterances)
        weights = weights_of(columns, config)
        return cls(
            columns=columns,
            weights=weights,
            buckets=make_buckets(columns.seconds, columns.tokens, config),
            mean_seconds=mean_seconds(columns, weights),
            update_seconds=config.update_seconds,
            update_tokens=config.update_tokens,
            update_clips=config.update_clips,
            speeds=config.augment.speed,
            seed=seed,
        )

    def updates(self, epoch: int) -> EpochUpdates:
        """Return an epoch's updates: each utterance with its repetitions, similar ones together.

        The remainders of all buckets are joined, in order of length, and cut into further updates.
        """
        return _draw_updates(self, epoch)

    def seconds(self, index: int) -> float:
        """Return an utterance's duration in seconds, before speed perturbation."""
        return self.columns.seconds.item(index)

    def tokens(self, index: int) -> int:
        """Return an utterance's number of label tokens."""
        return self.columns.tokens.item(index)

    def speed(self, index: int, epoch: int) -> float:
        """Return an utterance's speed in an epoch; 1.0 if it would become too long."""
        if not self.speeds:
            return 1.0
        drawn = random.Random(f"{self.seed} {epoch} {index} speed").choice(self.speeds)
        return drawn if self.seconds(index) / drawn < CHUNK_SECONDS else 1.0

    def duration(self, index: int, epoch: int) -> float:
        """Return an utterance's duration in an epoch, in seconds, after speed perturbation."""
        return self.seconds(index) / self.speed(index, epoch)

    def num_updates(self, epochs: int) -> int:
        """Return the number of updates in the first `epochs` epochs."""
        return sum(len(self.updates(epoch)) for epoch in range(epochs))

    def group_starts(self, clips: list[int]) -> list[int]:
        """Cut clips into groups within the update budget; return the offset of each group."""
        if self.update_clips is not None:
            return list(range(0, len(clips), self.update_clips)) or [0]
        max_seconds, max_tokens = self.update_seconds, self.update_tokens
        lengths = zip(
            self.columns.seconds[clips].tolist(), self.columns.tokens[clips].tolist(), strict=True
        )
        starts, seconds, tokens = [0], 0.0, 0
        for index, (more_seconds, more_tokens) in enumerate(lengths):
            seconds += more_seconds
            tokens += more_tokens
            if index > starts[-1] and (seconds > max_seconds or tokens > max_tokens):
                starts.append(index)
                seconds, tokens = more_seconds, more_tokens
        return starts


@lru_cache(maxsize=2)  # startup asks for the first epoch several times: 1 s per million clips
def _draw_updates(plan: Plan, epoch: int) -> EpochUpdates:
    rng = random.Random(f"{plan.seed} {epoch}")
    repetitions = (
        repetitions_of(plan.columns, plan.weights, plan.seed, epoch) if plan.weights else None
    )
    clips, starts = array("i"), array("q")
    rest: list[int] = []
    for indices in plan.buckets:
        due = indices if repetitions is None else np.repeat(indices, repetitions[indices])
        bucket: list[int] = due.tolist()
        rng.shuffle(bucket)
        *begins, last = plan.group_starts(bucket)
        starts.extend(len(clips) + begin for begin in begins)
        clips.extend(bucket[:last])
        rest += bucket[last:]
    if rest:
        starts.extend(len(clips) + begin for begin in plan.group_starts(rest))
        clips.extend(rest)
    order = list(range(len(starts)))
    rng.shuffle(order)
    starts.append(len(clips))
    return EpochUpdates(np.array(clips), np.array(starts), np.array(order, dtype=np.int64))


def make_buckets(
    seconds: NDArray[np.float64], tokens: NDArray[np.int32], config: DataConfig
) -> list[NDArray[np.int32]]:
    """Sort utterances into 2-D buckets: by duration, and within that by number of tokens.

    The decoder pads too, and clips of equal duration differ most in their number of tokens (2-D
    buckets as in lhotse and NeMo).

    Returns:
        Indices of utterances, shorter ones first; no bucket is empty.
    """

    def updates(bucket: NDArray[np.float64]) -> float:
        if config.update_clips is not None:
            return len(bucket) / config.update_clips
        return sum(bucket.tolist()) / config.update_seconds  # exact order: np.sum() adds in pairs

    if config.pad in WHOLE_WINDOWS:
        return [np.arange(len(seconds), dtype=np.int32)]
    bucket_count = max(1, min(config.buckets, int(updates(seconds) / MIN_UPDATES)))
    edges = bucket_edges(seconds, bucket_count)
    by_tokens = np.argsort(tokens, kind="stable").astype(np.int32)
    number = np.searchsorted(edges, frames_of_all(seconds))[by_tokens]
    ordered = by_tokens[np.argsort(number, kind="stable")]
    ends = np.cumsum(np.bincount(number, minlength=len(edges)))
    buckets = []
    for bucket in filter(len, np.split(ordered, ends[:-1])):
        parts = max(1, min(config.token_buckets, int(updates(seconds[bucket]) / MIN_UPDATES)))
        cuts = [len(bucket) * part // parts for part in range(parts + 1)]
        buckets += [bucket[a:b] for a, b in pairwise(cuts)]
    return buckets


def bucket_edges(seconds: NDArray[np.float64], buckets: int) -> list[int]:
    """Return bucket edges, in frames, between which there are equal amounts of audio.

    A clip of n frames belongs to the first bucket whose edge is n or more. The last edge fits the
    longest clip.
    """
    ordered = np.sort(seconds)
    totals = np.cumsum(ordered)  # adds in order, unlike np.sum()
    share = sum(ordered.tolist()) / buckets
    edges: list[int] = []
    last = -1  # index of the clip that the last edge was made for
    while True:
        reached = np.searchsorted(totals, share * (len(edges) + 1) * (1 - 1e-9))
        last = max(last + 1, int(reached))
        if last >= len(ordered):
            return sorted({*edges, padded_frames(ordered.item(-1))})
        edges.append(padded_frames(ordered.item(last)))


def padded_frames(seconds: float) -> int:
    """Return the frames of a duration in seconds, rounded up to a multiple of EDGE_FRAMES."""
    return min(-(-frames_of(seconds) // EDGE_FRAMES) * EDGE_FRAMES, N_FRAMES)


def frames_of_all(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return frames_of() of each duration."""
    return np.ceil(seconds * FRAMES_PER_SECOND).astype(np.int64)


def padded_frames_of_all(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return padded_frames() of each duration."""
    return np.minimum(-(-frames_of_all(seconds) // EDGE_FRAMES) * EDGE_FRAMES, N_FRAMES)
