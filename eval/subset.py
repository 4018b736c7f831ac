"""A part of a split that stands for all of it: the same one each time."""

import random
from collections.abc import Sequence
from itertools import pairwise

from data.utterance import Utterance


def stratified(
    utterances: Sequence[Utterance], clips: int | None, seed: int = 0
) -> list[Utterance]:
    """Return so many utterances, spread evenly over corpora, languages, tasks and lengths.

    In that order they are cut into as many parts of equal size, and one is drawn from each. Nothing
    but the utterances, the number and the seed decides.

    Args:
        utterances: each id once.
        clips: how many; None: all.
        seed: of the draws.

    Returns:
        Them in the order in which they came.
    """
    if clips is None or clips >= len(utterances):
        return list(utterances)

    def kind(index: int) -> tuple[str, str, str, float, str]:
        u = utterances[index]
        return u.corpus, u.language or "", u.task, u.seconds, u.id

    ordered = sorted(range(len(utterances)), key=kind)
    rng = random.Random(seed)
    edges = [len(ordered) * part // clips for part in range(clips + 1)]
    return [
        utterances[i] for i in sorted(ordered[rng.randrange(*edge)] for edge in pairwise(edges))
    ]
