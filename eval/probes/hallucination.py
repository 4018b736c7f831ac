"""Signs of hallucination: clips in which a model loops, invents text or returns none.

Thresholds are relative: a text counts as a loop only if its reference does not repeat as much, and
a warning is given only if a share rose since the run's first evaluation.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data.labels import UNSPACED
from eval.fallback import COMPRESSION_RATIO_THRESHOLD, compression_ratio
from eval.metrics.hypothesis import Hypothesis

LOOP_REPEATS = 4  # consecutive repeats of a phrase that make a loop
MAX_PHRASE = 40  # words or characters of a repeated phrase
MAX_TOKENS_PER_SECOND = 25.0  # speech has 3 to 15
WARN_INCREASE = 0.02  # warn if a share of clips rose by this …
WARN_CLIPS = 3  # … and by this many clips, so that small sets give no false alarm


class Sign(NamedTuple):
    """A sign of hallucination, as tables and warnings show it."""

    label: str
    definition: str
    advice: str  # if it increases


SIGNS = {
    "loops": Sign(
        "loops",
        "loops: the text repeats itself four times in a row, and its reference does not",
        "the model repeats itself: train shorter, or look for loops in the transcripts",
    ),
    "fast": Sign(
        "too fast",
        f"too fast: more than {MAX_TOKENS_PER_SECOND:.0f} tokens a second, and twice those of the "
        "reference",
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
    """Hypotheses for clips of silence and noise."""

    clips: int
    spoken: int  # clips with a text
    characters: int  # of all texts
    texts: dict[str, str]  # by clip id; without empty ones

    @classmethod
    def of(cls, hypotheses: Sequence[Hypothesis]) -> "NoiseCounts":
        """Count the hypotheses of noise clips."""
        texts = {h.utterance.id: h.text for h in hypotheses if h.text}
        characters = sum(map(len, texts.values()))
        return cls(clips=len(hypotheses), spoken=len(texts), characters=characters, texts=texts)


@dataclass(frozen=True, kw_only=True, slots=True)
class HallucinationCounts:
    """Numbers of clips of an evaluation with each sign."""

    clips: int
    loops: int  # the text repeats a phrase, and the reference does not
    fast: int  # more than 25 tokens a second, and twice those of the reference
    empty: int  # no text, although the reference has one
    truncated: int  # decoding reached the token limit
    noise: NoiseCounts | None = None

    @classmethod
    def of(
        cls, hypotheses: Sequence[Hypothesis], noise: Sequence[Hypothesis] = ()
    ) -> "HallucinationCounts":
        """Count the signs.

        Args:
            hypotheses: of an evaluation.
            noise: of clips of silence and noise.
        """
        return cls(
            clips=len(hypotheses),
            loops=sum(map(is_loop, hypotheses)),
            fast=sum(map(is_too_fast, hypotheses)),
            empty=sum(not h.text and bool(h.utterance.text.strip()) for h in hypotheses),
            truncated=sum(h.truncated for h in hypotheses),
            noise=NoiseCounts.of(noise) if noise else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the entry of scores.json."""
        return asdict(self)

    def metrics(self) -> dict[str, float]:
        """Return shares of the clips by slash name."""
        metrics = {
            f"meters/{name}": count / clips for name, count, clips in self._counts(self.to_json())
        }
        if self.noise is not None:
            metrics["meters/noise_characters"] = float(self.noise.characters)
        return metrics

    def __str__(self) -> str:
        """Format the counts in a line."""
        counts = ", ".join(f"{SIGNS[name].label} {getattr(self, name)}" for name in COUNTS)
        line = f"hallucinations: {counts} of {self.clips} clips"
        if self.noise is None:
            return line
        texts = f"text in {self.noise.spoken} of {self.noise.clips} clips of silence and noise"
        return f"{line}; {texts} ({self.noise.characters} characters)"

    def warnings(self, first: Mapping[str, Any] | None) -> list[str]:
        """Return a warning for each sign that increased since the run's first evaluation.

        Args:
            first: to_json() of the first evaluation; None if this is the first.
        """
        before = {name: (count, clips) for name, count, clips in self._counts(first or {})}
        messages = []
        for name, count, clips in self._counts(self.to_json()):
            old_count, old_clips = before.get(name, (count, clips))
            share = old_count / old_clips
            if count / clips - share >= WARN_INCREASE and count - share * clips >= WARN_CLIPS:
                messages.append(
                    f"{SIGNS[name].label}: {count} of {clips} clips, {old_count} of {old_clips} at "
                    f"first: {SIGNS[name].advice}"
                )
        return messages

    @staticmethod
    def _counts(saved: Mapping[str, Any]) -> list[tuple[str, int, int]]:
        """Return name, count and number of clips of each sign, without those of no clips."""
        counts = [(name, saved[name], saved["clips"]) for name in COUNTS if name in saved]
        if noise := saved.get("noise"):
            counts.append(("noise", noise["spoken"], noise["clips"]))
        return [(name, count, clips) for name, count, clips in counts if clips]


COUNTS = ("loops", "fast", "empty", "truncated")


def is_loop(h: Hypothesis) -> bool:
    """Return whether a hypothesis repeats a phrase four times in a row or is highly compressible.

    False if its reference does the same.
    """
    spaced = h.text_language not in UNSPACED
    hypothesis, reference = (max_repeats(t, spaced=spaced) for t in (h.text, h.utterance.text))
    if hypothesis >= LOOP_REPEATS and hypothesis > reference:
        return True
    ratio, reference_ratio = compression_ratio(h.text), compression_ratio(h.utterance.text)
    return ratio > COMPRESSION_RATIO_THRESHOLD >= reference_ratio


def max_repeats(text: str, *, spaced: bool) -> int:
    """Return the largest number of consecutive repeats of a phrase of up to 40 units.

    Args:
        text: case and punctuation are ignored.
        spaced: the units are words; otherwise characters.
    """
    words = re.findall(r"\w+", text.casefold())
    units: Sequence[str] = words if spaced else "".join(words)
    most = min(1, len(units))
    for period in range(1, min(MAX_PHRASE, len(units) // 2) + 1):
        run = longest = 0
        for unit, later in zip(units, units[period:], strict=False):
            run = run + 1 if unit == later else 0
            longest = max(longest, run)
        most = max(most, longest // period + 1)
    return most


def is_too_fast(h: Hypothesis) -> bool:
    """Return whether a text has too many tokens for its seconds and for its reference."""
    seconds = max(1.0, h.utterance.seconds)
    return h.tokens > MAX_TOKENS_PER_SECOND * seconds and h.tokens > 2 * h.utterance.tokens


def first_hallucination_counts(evaluations: Path, split: str) -> dict[str, Any] | None:
    """Return the counts of a split's first evaluation in a run's folder eval/, or None."""
    paths = sorted(evaluations.glob(f"step-*/{split}/scores.json"))
    if not paths:
        return None
    counts: dict[str, Any] | None = json.loads(paths[0].read_text(encoding="utf-8")).get("meters")
    return counts
