"""Choose the padded shapes of a corpus: those of the least padding, by dynamic programming."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# Cost of a decoder position in frames of the encoder. Per frame the encoder and cross-attention
# take 84 d² multiplications in whisper-small (half a position of 12 layers of 12 d² + 2 d²). Per
# token the decoder takes 168 d², and the LM head 51,865 d = 68 d².
TOKEN_FRAMES = 3
LENGTH_CANDIDATES, TOKEN_CANDIDATES = 64, 16  # the time grows with the square of their product
IMPOSSIBLE = np.iinfo(np.int64).max // 4


class Sizes(NamedTuple):
    """The padded sizes that clips need at least."""

    frames: Ints
    tokens: Ints  # of labels
    counts: NDArray[np.float64]  # repetitions per epoch


def choose_shapes(
    sizes: Sizes, rows: Callable[[Ints], Ints], max_shapes: int
) -> list[tuple[int, int]]:
    """Return (frames, tokens) of up to max_shapes shapes, none smaller than the one before.

    A clip is padded to the first shape that holds it. Each shape holds the ones before it, so that
    the clips that are left of one can fill the next: (rows - 1) / 2 of them on average. The cost is
    that of all padded clips, with these. It is the least of all such lists, up to the number of
    candidates.

    Args:
        sizes: of the clips.
        rows: returns the rows of a full update for each of some lengths in frames.
        max_shapes: 1 or more.
    """
    lengths = _candidates(sizes.frames, sizes.counts, LENGTH_CANDIDATES)
    labels = _candidates(sizes.tokens, sizes.counts, TOKEN_CANDIDATES)
    places = np.searchsorted(lengths, sizes.frames), np.searchsorted(labels, sizes.tokens)
    flat = np.ravel_multi_index(places, (len(lengths), len(labels)))
    counts = np.bincount(flat, sizes.counts, minlength=len(lengths) * len(labels))
    table = np.rint(counts).astype(np.int64).reshape(len(lengths), len(labels))
    held = table.cumsum(0).cumsum(1).ravel()  # clips that each shape holds
    frames, tokens = (each.ravel() for each in np.meshgrid(lengths, labels, indexing="ij"))
    cost = frames + TOKEN_FRAMES * tokens
    left = rows(frames) - 1  # twice the clips that are left of a shape
    step = 2 * (held[None] - held[:, None]) * cost + left[:, None] * (cost - cost[:, None])
    fits = (frames[:, None] <= frames) & (tokens[:, None] <= tokens)
    np.fill_diagonal(fits, val=False)
    chain = _cheapest_chain(2 * held * cost, np.where(fits, step, IMPOSSIBLE), max_shapes)
    return [(frames.item(index), tokens.item(index)) for index in chain]


def _candidates(values: Ints, counts: NDArray[np.float64], most: int) -> Ints:
    """Return up to `most` of the values, between which there are equal amounts; the largest too."""
    distinct, place = np.unique(values, return_inverse=True)
    if len(distinct) <= most:
        return distinct
    amounts = np.cumsum(np.bincount(place, counts) * distinct)
    shares = amounts[-1] * np.arange(1, most + 1) / most * (1 - 1e-9)
    chosen = np.minimum(np.searchsorted(amounts, shares), len(distinct) - 1)
    return distinct[np.unique([*chosen.tolist(), len(distinct) - 1])]


def _cheapest_chain(first: Ints, step: Ints, most: int) -> list[int]:
    """Return the cheapest chain of up to `most` states that ends in the last one.

    Args:
        first: cost of a chain of each state alone.
        step: cost of adding a state (column) to a chain that ends in another (row).
        most: states at most.
    """
    total, came_from = first, list[Ints]()
    ends = [total.item(-1)]
    for _ in range(most - 1):
        sums = total[:, None] + step
        came_from.append(sums.argmin(0))
        total = np.minimum(sums.min(0), IMPOSSIBLE)
        ends.append(total.item(-1))
    chain = [len(first) - 1]
    for origins in reversed(came_from[: int(np.argmin(ends))]):
        chain.append(origins.item(chain[-1]))
    return chain[::-1]
