"""Signs of hallucination: clips in which a model loops, invents text or returns none.

What is normal is measured, not guessed: a text loops where its reference does not, and a share is
worth a warning where it grew since the run's first evaluation.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data.labels import UNSPACED
from eval.fallback import MOST_COMPRESSED, compression
from eval.metrics.hypothesis import Hypothesis

REPEATS = 4  # times in a row that something is said: a loop, unless the reference says so
LONGEST = 40  # words or characters of what is looked for
FASTEST = 25.0  # tokens a second: speech has 3 to 15
GROWN = 0.02  # of the clips: what a share grows by before a warning, and by
GROWN_CLIPS = 3  # clips, so that a few of a small set are no alarm


class Sign(NamedTuple):
    """How a sign is shown."""

    called: str
    told: str  # its definition
    advice: str  # where it grows


SIGNS = {
    "loops": Sign(
        "loops",
        "loops: the text repeats itself four times in a row, and its reference does not",
        "the model repeats itself: train shorter, or look for loops in the transcripts",
    ),
    "fast": Sign(
        "too fast",
        f"too fast: more than {FASTEST:.0f} tokens a second, and twice those of the reference",
        "the texts are longer than the speech: look for clips cut off before their text ends",
    ),
    "empty": Sign(
        "empty",
        "empty: no text, where the reference has one",
        "the model returns no text: look for clips whose text is missing or cut",
    ),
    "truncated": Sign(
        "cut off",
        "cut off: decoding reached its maximum of tokens",
        "decoding does not end: look for transcripts that break off in mid-sentence",
    ),
    "noise": Sign(
        "noise",
        "text in clips of silence and noise, where nobody speaks",
        "the model invents text: mix in clips in which nothing is said",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseCounts:
    """What was heard where nobody speaks."""

    clips: int
    spoken: int  # clips to which anything was said
    characters: int  # that were said
    texts: dict[str, str]  # what was said to each of them

    @classmethod
    def of(cls, hypotheses: Sequence[Hypothesis]) -> "NoiseCounts":
        """Count."""
        texts = {h.utterance.id: h.text for h in hypotheses if h.text}
        characters = sum(map(len, texts.values()))
        return cls(clips=len(hypotheses), spoken=len(texts), characters=characters, texts=texts)


@dataclass(frozen=True, kw_only=True, slots=True)
class HallucinationCounts:
    """Clips of an evaluation with each of the signs."""

    clips: int
    loops: int  # the text repeats itself, and the reference does not
    fast: int  # more than 25 tokens a second, and twice those of the reference
    empty: int  # no text, and the reference has one
    truncated: int  # decoding reached its most tokens
    noise: NoiseCounts | None = None

    @classmethod
    def of(
        cls, hypotheses: Sequence[Hypothesis], noise: Sequence[Hypothesis] = ()
    ) -> "HallucinationCounts":
        """Count the signs in what was heard, and in what was heard of silence and noise."""
        return cls(
            clips=len(hypotheses),
            loops=sum(map(loops, hypotheses)),
            fast=sum(map(fast, hypotheses)),
            empty=sum(not h.text and bool(h.utterance.text.strip()) for h in hypotheses),
            truncated=sum(h.truncated for h in hypotheses),
            noise=NoiseCounts.of(noise) if noise else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return what scores.json holds."""
        return asdict(self)

    def metrics(self) -> dict[str, float]:
        """Return shares of the clips under slash names."""
        found = {
            f"meters/{name}": count / clips for name, count, clips in self._counts(self.to_json())
        }
        if self.noise is not None:
            found["meters/noise_characters"] = float(self.noise.characters)
        return found

    def __str__(self) -> str:
        """Return them in a line."""
        told = ", ".join(f"{SIGNS[name].called} {getattr(self, name)}" for name in COUNTS)
        line = f"hallucinations: {told} of {self.clips} clips"
        if self.noise is None:
            return line
        heard = f"text in {self.noise.spoken} of {self.noise.clips} clips of silence and noise"
        return f"{line}; {heard} ({self.noise.characters} characters)"

    def grown(self, first: Mapping[str, Any] | None) -> list[str]:
        """Return a sentence for each sign that grew since the run's first evaluation.

        Args:
            first: what to_json() was then; None: this is the first.
        """
        before = {name: (count, clips) for name, count, clips in self._counts(first or {})}
        found = []
        for name, count, clips in self._counts(self.to_json()):
            was, of = before.get(name, (count, clips))
            share = was / of
            if count / clips - share >= GROWN and count - share * clips >= GROWN_CLIPS:
                told = f"{SIGNS[name].called}: {count} of {clips} clips, {was} of {of} at first"
                found.append(f"{told}: {SIGNS[name].advice}")
        return found

    @staticmethod
    def _counts(told: Mapping[str, Any]) -> list[tuple[str, int, int]]:
        """Return each sign's name, count, and the clips that it is of, where there are any."""
        found = [(name, told[name], told["clips"]) for name in COUNTS if name in told]
        if noise := told.get("noise"):
            found.append(("noise", noise["spoken"], noise["clips"]))
        return [each for each in found if each[2]]


COUNTS = ("loops", "fast", "empty", "truncated")


def loops(h: Hypothesis) -> bool:
    """Tell whether a text says something four times in a row, or compresses too well.

    Not where its reference does the same.
    """
    spaced = h.written not in UNSPACED
    said, meant = (repeats(text, spaced=spaced) for text in (h.text, h.utterance.text))
    if said >= REPEATS and said > meant:
        return True
    return compression(h.text) > MOST_COMPRESSED >= compression(h.utterance.text)


def repeats(text: str, *, spaced: bool) -> int:
    """Return how often a text says the same in a row, at most: words, or up to 40 of them.

    Args:
        text: with punctuation and case, which do not count.
        spaced: whether words are what repeats, or characters.
    """
    words = re.findall(r"\w+", text.casefold())
    units: Sequence[str] = words if spaced else "".join(words)
    most = min(1, len(units))
    for period in range(1, min(LONGEST, len(units) // 2) + 1):
        run = longest = 0
        for one, other in zip(units, units[period:], strict=False):
            run = run + 1 if one == other else 0
            longest = max(longest, run)
        most = max(most, longest // period + 1)
    return most


def fast(h: Hypothesis) -> bool:
    """Tell whether a text has more tokens than its seconds, and its reference, have room for."""
    seconds = max(1.0, h.utterance.seconds)
    return h.tokens > FASTEST * seconds and h.tokens > 2 * h.utterance.tokens


def first_hallucination_counts(evaluations: Path, split: str) -> dict[str, Any] | None:
    """Return the meters of a split's first evaluation in a run's folder eval/, if there is one."""
    found = sorted(evaluations.glob(f"step-*/{split}/scores.json"))
    if not found:
        return None
    meters: dict[str, Any] | None = json.loads(found[0].read_text(encoding="utf-8")).get("meters")
    return meters
