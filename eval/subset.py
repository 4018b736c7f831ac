"""Choose a stratified, reproducible subset of a split."""

import random
from collections.abc import Sequence
from itertools import pairwise

from data.utterance import Utterance


def stratified(
    utterances: Sequence[Utterance], clips: int | None, seed: int = 0
) -> list[Utterance]:
    """Return a sample of utterances, spread evenly over corpora, languages, tasks and lengths.

    The utterances are sorted by these keys and cut into `clips` parts of equal size; one utterance
    is drawn from each part. The result depends only on the arguments.

    Args:
        utterances: with unique ids.
        clips: size of the sample; None for all utterances.
        seed: of the random choice within each part.

    Returns:
        The chosen utterances, in their original order.
    """
    if clips is None or clips >= len(utterances):
        return list(utterances)

    def sort_key(index: int) -> tuple[str, str, str, float, str]:
        u = utterances[index]
        return u.corpus, u.language or "", u.task, u.seconds, u.id

    ordered = sorted(range(len(utterances)), key=sort_key)
    rng = random.Random(seed)
    edges = [len(ordered) * part // clips for part in range(clips + 1)]
    return [
        utterances[i] for i in sorted(ordered[rng.randrange(*edge)] for edge in pairwise(edges))
    ]
