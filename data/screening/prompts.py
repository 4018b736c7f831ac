"""Prompts: the preceding transcript of each slice of a longer recording."""

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

from data.labels import LabelEncoder
from data.utterance import Utterance

PAUSE = 10.0  # seconds between slices above which the preceding one is not used as a prompt


def add_prompts(rows: list[Utterance], labels: LabelEncoder) -> None:
    """Set each slice's prompt, in place, to the text of the preceding slice of its recording."""
    recordings: defaultdict[str, list[int]] = defaultdict(list)
    for index, u in enumerate(rows):
        if u.start or u.end is not None:
            recordings[u.audio].append(index)
    prompts: dict[int, str] = {}
    for indices in recordings.values():
        indices.sort(key=lambda index: rows[index].start)
        for previous, index in pairwise(indices):
            end = rows[previous].start + rows[previous].seconds
            if rows[index].start - end <= PAUSE:
                prompts[index] = rows[previous].text
    lengths = labels.count_text_tokens(list(prompts.values()))
    for (index, prompt), tokens in zip(prompts.items(), lengths, strict=True):
        rows[index] = replace(rows[index], prompt=prompt, prompt_tokens=tokens)
