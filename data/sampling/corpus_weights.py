"""How often an epoch hears the utterances of each corpus."""

import random
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from data.config import DataConfig
from data.errors import InputError
from data.lazy_manifest import ManifestColumns


def weights_of(outline: ManifestColumns, config: DataConfig) -> dict[str, float]:
    """Return how often an epoch hears each corpus, by data.weights or data.hours_per_epoch.

    Raises:
        InputError: a corpus of the outline is not in data.corpus.
    """
    if not (config.weights or config.hours_per_epoch):
        return {}
    seconds = dict.fromkeys(config.corpus, 0.0)
    for corpus, (_, length) in outline.corpora().items():
        if corpus not in seconds:
            raise InputError(
                f"data.corpus is {', '.join(config.corpus)}, but the run's manifest holds "
                f"{corpus}: data.weights and data.hours_per_epoch need the names of the run's start"
            )
        seconds[corpus] = length
    if config.weights:
        given = dict(zip(config.corpus, config.weights, strict=True))
    else:
        hours = zip(config.corpus, config.hours_per_epoch, strict=True)
        given = {name: 3600 * each / max(seconds[name], 1e-9) for name, each in hours}
    return {name: weight for name, weight in given.items() if seconds[name]}


def mean_seconds(outline: ManifestColumns, weights: Mapping[str, float]) -> float:
    """Return the mean length of what epochs hear, in seconds: a corpus counts by its weight."""
    if not weights:
        return sum(outline.seconds.tolist()) / max(1, len(outline.seconds))
    parts = [(weights.get(name, 1.0), *part) for name, part in outline.corpora().items()]
    heard = sum(weight * seconds for weight, _, seconds in parts)
    return heard / sum(weight * clips for weight, clips, _ in parts)


def times_of(
    outline: ManifestColumns, weights: Mapping[str, float], seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return how often an epoch hears each utterance: once, unless its corpus has a weight.

    A corpus of weight w is shuffled over and over into one long line, of which each epoch takes
    the next w-th: no utterance is ever more than one hearing ahead of another.
    """
    times = np.ones(len(outline.seconds), dtype=np.int64)
    for number, (corpus, weight) in enumerate(weights.items()):
        clips = outline.of_corpus(corpus)
        first, last = (int(n * weight * len(clips) + 1e-6) for n in (epoch, epoch + 1))
        times[clips] = 0
        for lap in range(first // len(clips), -(-last // len(clips))):
            rng = random.Random(f"{seed} corpus {number} {lap}")
            line = clips[rng.sample(range(len(clips)), len(clips))]
            begin = lap * len(clips)
            times[line[max(0, first - begin) : last - begin]] += 1
    return times
