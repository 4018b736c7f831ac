"""How often an epoch hears the utterances of each corpus."""

import random
from collections.abc import Mapping, Sequence
from operator import mul

from data.config import DataConfig
from data.errors import InputError
from data.lazy import Kind, Outline


def weights_of(outline: Outline, config: DataConfig) -> dict[str, float]:
    """Return how often an epoch hears each corpus, by data.weights or data.hours.

    Raises:
        InputError: a corpus of the outline is not in data.corpus.
    """
    if not (config.weights or config.hours):
        return {}
    seconds = dict.fromkeys(config.corpus, 0.0)
    for (corpus, _, _), length in zip(outline.kinds, outline.seconds, strict=True):
        if corpus not in seconds:
            raise InputError(
                f"data.corpus is {', '.join(config.corpus)}, but the run's manifest holds "
                f"{corpus}: data.weights and data.hours go by the names that it was begun with"
            )
        seconds[corpus] += length
    if config.weights:
        given = dict(zip(config.corpus, config.weights, strict=True))
    else:
        hours = zip(config.corpus, config.hours, strict=True)
        given = {name: 3600 * each / max(seconds[name], 1e-9) for name, each in hours}
    return {name: weight for name, weight in given.items() if seconds[name]}


def mean_seconds(outline: Outline, weights: Mapping[str, float]) -> float:
    """Return the mean length of what epochs hear, in seconds: a corpus counts by its weight."""
    if not weights:
        return sum(outline.seconds) / max(1, len(outline.seconds))
    heard = [weights.get(corpus, 1.0) for corpus, _, _ in outline.kinds]
    return sum(map(mul, heard, outline.seconds)) / sum(heard)


def times_of(
    kinds: Sequence[Kind], weights: Mapping[str, float], seed: int, epoch: int
) -> list[int]:
    """Return how often an epoch hears each utterance: once, unless its corpus has a weight.

    A corpus of weight w is shuffled over and over into one long line, of which each epoch takes
    the next w-th: no utterance is ever more than one hearing ahead of another.
    """
    times = [1] * len(kinds)
    for number, (corpus, weight) in enumerate(weights.items()):
        clips = [index for index, kind in enumerate(kinds) if kind[0] == corpus]
        first, last = (int(n * weight * len(clips) + 1e-6) for n in (epoch, epoch + 1))
        for index in clips:
            times[index] = 0
        for lap in range(first // len(clips), -(-last // len(clips))):
            line = random.Random(f"{seed} corpus {number} {lap}").sample(clips, len(clips))
            begin = lap * len(clips)
            for index in line[max(0, first - begin) : last - begin]:
                times[index] += 1
    return times
