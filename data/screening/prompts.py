"""What was said before an utterance, where it is a slice of a longer recording."""

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

from data.labels import LabelEncoder
from data.utterance import Utterance

PAUSE = 10.0  # seconds after which what was said before is no context any more


def add_prompts(rows: list[Utterance], encoder: LabelEncoder) -> None:
    """Give each slice, in place, the text of the one before it in its recording."""
    recordings: defaultdict[str, list[int]] = defaultdict(list)
    for index, u in enumerate(rows):
        if u.start or u.end is not None:
            recordings[u.audio].append(index)
    prompts: dict[int, str] = {}
    for indices in recordings.values():
        indices.sort(key=lambda index: rows[index].start)
        for before, index in pairwise(indices):
            ended = rows[before].start + rows[before].seconds
            if rows[index].start - ended <= PAUSE:
                prompts[index] = rows[before].text
    lengths = encoder.measure(list(prompts.values()))
    for (index, prompt), tokens in zip(prompts.items(), lengths, strict=True):
        rows[index] = replace(rows[index], prompt=prompt, prompt_tokens=tokens)
