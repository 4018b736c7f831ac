"""The plan of an epoch: a list of updates, each a list of indices into the manifest.

It is a pure function of (seed, epoch, manifest, budget) and does not know how many processes or
workers there are, nor how much memory one has, so any of these may change between two starts.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data.config import DataConfig
from data.features import CHUNK_SECONDS, N_FRAMES, frames_of
from data.lazy import Kind, Outline
from data.mixing import mean_seconds, times_of, weights_of
from data.utterance import Utterance

EDGE_FRAMES = 16  # edges are multiples of this: 8 encoder positions, as tensor cores like it
WHOLE_WINDOWS = ("30s", "packed")  # ways to pad that leave no reason to sort by length
LEAST_UPDATES = 2  # a bucket should hold, or an epoch's updates would hold the same clips again


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Draws the updates of any epoch."""

    seconds: Sequence[float]  # of each utterance
    tokens: Sequence[int]  # the same
    prompts: Sequence[int]  # the same: tokens of what was said before
    kinds: Sequence[Kind]  # the same: packed within one
    weights: Mapping[str, float]  # how often an epoch hears a corpus; once where it is not named
    buckets: Sequence[Sequence[int]]  # utterances of similar length and number of tokens
    mean_seconds: float  # of what epochs hear
    update_seconds: float
    update_tokens: int
    update_clips: int | None
    speeds: Sequence[float]  # one is drawn for each hearing; none: as recorded
    seed: int

    @classmethod
    def of(cls, utterances: Sequence[Utterance], config: DataConfig, seed: int) -> "Plan":
        """Make the plan of a manifest."""
        outline = Outline.of(utterances)
        seconds, tokens = outline.seconds, outline.tokens
        weights = weights_of(outline, config)
        return cls(
            seconds=seconds,
            tokens=tokens,
            prompts=outline.prompts,
            kinds=outline.kinds,
            weights=weights,
            buckets=make_buckets(seconds, tokens, config),
            mean_seconds=mean_seconds(outline, weights),
            update_seconds=config.update_seconds,
            update_tokens=config.update_tokens,
            update_clips=config.update_clips,
            speeds=config.augment.speed,
            seed=seed,
        )

    def updates(self, epoch: int) -> list[list[int]]:
        """Return an epoch's updates: every utterance as often as it is due, similar ones together.

        What is left over in each bucket is cut, still in order of length, into updates of its own.
        """
        rng = random.Random(f"{self.seed} {epoch}")
        updates: list[list[int]] = []
        rest: list[int] = []
        times = times_of(self.kinds, self.weights, self.seed, epoch)
        for indices in self.buckets:
            bucket = [index for index in indices for _ in range(times[index])]
            rng.shuffle(bucket)
            cut = self._cut(bucket)
            updates += cut[:-1]
            rest += cut[-1]
        updates += filter(None, self._cut(rest))
        rng.shuffle(updates)
        return updates

    def speed(self, index: int, epoch: int) -> float:
        """Return the speed at which an epoch hears an utterance; none grows too long by it."""
        if not self.speeds:
            return 1.0
        drawn = random.Random(f"{self.seed} {epoch} {index} speed").choice(self.speeds)
        return drawn if self.seconds[index] / drawn < CHUNK_SECONDS else 1.0

    def heard(self, index: int, epoch: int) -> float:
        """Return how long an utterance is in an epoch, in seconds."""
        return self.seconds[index] / self.speed(index, epoch)

    def length(self, epochs: int) -> int:
        """Return the number of updates in some epochs, counted from the first."""
        return sum(len(self.updates(epoch)) for epoch in range(epochs))

    def _cut(self, indices: Sequence[int]) -> list[list[int]]:
        """Cut into groups within the budget; a clip over it on its own is a group."""
        group: list[int] = []
        groups, seconds, tokens = [group], 0.0, 0
        for index in indices:
            more_seconds, more_tokens = self.seconds[index], self.tokens[index]
            seconds += more_seconds
            tokens += more_tokens
            if group and self._exceeds(len(group) + 1, seconds, tokens):
                group = []
                groups.append(group)
                seconds, tokens = more_seconds, more_tokens
            group.append(index)
        return groups

    def _exceeds(self, clips: int, seconds: float, tokens: int) -> bool:
        if self.update_clips is not None:
            return clips > self.update_clips
        return seconds > self.update_seconds or tokens > self.update_tokens


def make_buckets(
    seconds: Sequence[float], tokens: Sequence[int], config: DataConfig
) -> list[list[int]]:
    """Sort utterances into buckets of two dimensions: by length, and within that by tokens.

    The decoder pads too: clips of one length differ in their tokens by more than in anything else
    (lhotse's and NeMo's 2-D buckets).

    Returns:
        Indices of utterances, shorter ones first; no bucket is empty.
    """

    def updates(indices: Sequence[int]) -> float:
        if config.update_clips is not None:
            return len(indices) / config.update_clips
        return sum(seconds[i] for i in indices) / config.update_seconds

    everything = range(len(seconds))
    if config.pad in WHOLE_WINDOWS:
        return [list(everything)]
    most = max(1, min(config.buckets, int(updates(everything) / LEAST_UPDATES)))
    edges = bucket_edges(seconds, most)
    place = np.searchsorted(edges, list(map(frames_of, seconds)))
    by_tokens = np.argsort(tokens, kind="stable")
    lengths = (by_tokens[place[by_tokens] == each].tolist() for each in range(len(edges)))
    buckets = []
    for held in filter(None, lengths):
        parts = max(1, min(config.token_buckets, int(updates(held) / LEAST_UPDATES)))
        cuts = [len(held) * part // parts for part in range(parts + 1)]
        buckets += [held[a:b] for a, b in pairwise(cuts)]
    return buckets


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
            edges.append(edge_of(clip))
    return sorted({*edges, edge_of(ordered[-1])})


def edge_of(seconds: float) -> int:
    """Return the frames that hold some seconds, rounded up to an edge."""
    return min(-(-frames_of(seconds) // EDGE_FRAMES) * EDGE_FRAMES, N_FRAMES)
