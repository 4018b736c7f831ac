"""Sort utterances into buckets of similar duration and token count."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data.config import DataConfig
from data.sampling.padded_length import frames_of_all, padded_frames

WHOLE_WINDOWS = ("30s", "packed")  # values of data.pad for which length does not matter
MIN_UPDATES = 2  # per bucket, so that updates mix clips differently in each epoch


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
