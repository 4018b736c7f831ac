"""Named rules that change a corpus's transcripts, so that lossy changes can be reported."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from data.utterance import Utterance


class Rule(NamedTuple):
    """A change of a text, with a name that describes it."""

    name: str  # as counted in a run's transcripts.json: "spaces between characters removed"
    change: Callable[[str], str]


def apply(text: str, rules: Sequence[Rule]) -> tuple[str, tuple[str, ...]]:
    """Apply rules in order; return the text and the names of the rules that changed it.

    All readers strip leading and trailing whitespace, which does not count as a rule.
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
    """Return the number of transcripts that each rule changed, by corpus and rule."""
    counts: dict[str, Counter[str]] = {}
    for u in utterances:
        if u.rules:
            counts.setdefault(u.corpus, Counter()).update(u.rules)
    return {corpus: dict(counter.most_common()) for corpus, counter in counts.items()}
