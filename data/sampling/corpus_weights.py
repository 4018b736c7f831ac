"""How often an epoch repeats the utterances of each corpus (data.weights, data.hours_per_epoch)."""

import random
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from data.config import DataConfig
from data.errors import InputError
from data.lazy_manifest import ManifestColumns


def weights_of(columns: ManifestColumns, config: DataConfig) -> dict[str, float]:
    """Return the repetitions per epoch of each corpus, from data.weights or data.hours_per_epoch.

    Raises:
        InputError: a corpus of the manifest is not in data.corpus.
    """
    if not (config.weights or config.hours_per_epoch):
        return {}
    seconds = dict.fromkeys(config.corpus, 0.0)
    for corpus, (_, length) in columns.corpora().items():
        if corpus not in seconds:
            raise InputError(
                f"data.corpus is {', '.join(config.corpus)}, but the run's manifest holds "
                f"{corpus}: data.weights and data.hours_per_epoch need the names at the run's start"
            )
        seconds[corpus] = length
    if config.weights:
        given = dict(zip(config.corpus, config.weights, strict=True))
    else:
        hours = zip(config.corpus, config.hours_per_epoch, strict=True)
        given = {name: 3600 * each / max(seconds[name], 1e-9) for name, each in hours}
    return {name: weight for name, weight in given.items() if seconds[name]}


def mean_seconds(columns: ManifestColumns, weights: Mapping[str, float]) -> float:
    """Return the mean duration of the clips of an epoch, in seconds, weighted by corpus."""
    if not weights:
        return sum(columns.seconds.tolist()) / max(1, len(columns.seconds))
    parts = [(weights.get(name, 1.0), *part) for name, part in columns.corpora().items()]
    total = sum(weight * seconds for weight, _, seconds in parts)
    return total / sum(weight * clips for weight, clips, _ in parts)


def mean_repetitions(columns: ManifestColumns, weights: Mapping[str, float]) -> NDArray[np.float64]:
    """Return the repetitions per epoch of each utterance, on average over epochs."""
    by_kind = [weights.get(corpus, 1.0) for corpus, _, _ in columns.kinds]
    return np.array(by_kind)[columns.kind]


def repetitions_of(
    columns: ManifestColumns, weights: Mapping[str, float], seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return the repetitions of each utterance in an epoch: one, unless its corpus has a weight.

    The shuffles of a corpus of weight w are concatenated endlessly, and each epoch takes the next w
    times its size. So the repetitions of its utterances never differ by more than one.
    """
    times = np.ones(len(columns.seconds), dtype=np.int64)
    for number, (corpus, weight) in enumerate(weights.items()):
        clips = columns.indices_of_corpus(corpus)
        first, last = (int(n * weight * len(clips) + 1e-6) for n in (epoch, epoch + 1))
        times[clips] = 0
        for lap in range(first // len(clips), -(-last // len(clips))):
            rng = random.Random(f"{seed} corpus {number} {lap}")
            line = clips[rng.sample(range(len(clips)), len(clips))]
            begin = lap * len(clips)
            times[line[max(0, first - begin) : last - begin]] += 1
    return times
