"""Rules that a corpus's transcripts are changed by, each with a name: what is lossy is said."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from data.utterance import Utterance


class Rule(NamedTuple):
    """One change of a text, and what it does in words."""

    name: str  # as counted in a run's transcripts.json: "spaces between characters removed"
    change: Callable[[str], str]


def apply(text: str, rules: Sequence[Rule]) -> tuple[str, tuple[str, ...]]:
    """Return a text after all rules in order, and the names of those that changed it.

    Space at the ends is taken off by all readers, and is no rule.
    """
    text = text.strip()
    names = []
    for name, change in rules:
        changed = change(text).strip()
        if changed != text:
            names.append(name)
        text = changed
    return text, tuple(names)


def count_rules(utterances: Iterable[Utterance]) -> dict[str, dict[str, int]]:
    """Return how many transcripts each rule changed: by corpus, by rule."""
    counts: dict[str, Counter[str]] = {}
    for u in utterances:
        if u.rules:
            counts.setdefault(u.corpus, Counter()).update(u.rules)
    return {corpus: dict(counter.most_common()) for corpus, counter in counts.items()}
