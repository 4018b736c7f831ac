"""What a model heard in an utterance, and what is counted in it: once, for all figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.utterance import Utterance
from eval.decode import DecodeResult
from eval.metrics.chinese_script import fold, is_folded, wrong_script
from eval.metrics.normalize import normalizer_for
from eval.metrics.units import KOREAN, METRICS, unit_of
from eval.metrics.wer import ErrorCounts, errors
from eval.reference_loss import Likelihood


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """What a model heard in an utterance."""

    utterance: Utterance
    text: str
    tokens: int = 0  # that were generated, without special ones
    truncated: bool = False  # whether decoding came to its limit
    likelihood: Likelihood | None = None  # of the reference; None where no label can hold it

    @classmethod
    def of(cls, utterance: Utterance, heard: DecodeResult) -> "Hypothesis":
        """Set what was heard beside what was said."""
        return cls(
            utterance=utterance,
            text=heard.text,
            tokens=heard.tokens,
            truncated=heard.truncated,
            likelihood=heard.likelihood,
        )

    @property
    def written(self) -> str:
        """Return the language of the texts: a translation's is English."""
        return "en" if self.utterance.task == "translate" else self.utterance.language or ""

    @property
    def languages(self) -> str:
        """Return the group that it counts in: its language, or zh-en for a translation of zh."""
        spoken = self.utterance.language or ""
        return spoken if spoken == self.written else f"{spoken}-{self.written}"

    @property
    def speaker(self) -> str | None:
        """Return who spoke, told apart from those of other corpora; None where unknown."""
        u = self.utterance
        return f"{u.corpus}\0{u.speaker}" if u.speaker else None

    def to_json(self, compared: "ComparedTexts") -> dict[str, Any]:
        """Return a row of utterances.jsonl: edits are of the normalised texts, in the unit."""
        u, counts = self.utterance, compared.counts.get(compared.metric)
        return {
            "id": u.id,
            "corpus": u.corpus,
            "language": u.language,
            "task": u.task,
            "speaker": u.speaker,
            "age": u.age,
            "gender": u.gender,
            "accent": u.accent,
            "seconds": u.seconds,
            "audio": u.audio,
            "start": u.start,
            "end": u.end,
            "reference": u.text,
            "hypothesis": self.text,
            "reference_normalized": compared.reference,
            "hypothesis_normalized": compared.hypothesis,
            "unit": compared.unit,
            "edits": counts.edits if counts else None,
            "units": counts.units if counts else 0,
            "tokens": self.tokens,
            "truncated": self.truncated,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedTexts:
    """An utterance's texts as they are compared, and the counts of every figure."""

    reference: str  # normalised
    hypothesis: str
    unit: str  # word, character or mixed
    normalizer: str  # with its version
    counts: Mapping[str, ErrorCounts]  # by figure; none where the normalised reference is empty

    @property
    def metric(self) -> str:
        """Return the name of the main figure: wer, cer or mer."""
        return METRICS[self.unit]


def compare_texts(heard: Hypothesis, normalizer: str, unit: str = "auto") -> ComparedTexts:
    """Normalise both texts and count.

    A reference that normalises to nothing would make any text an endless error: it has no counts.

    Args:
        heard: an utterance and its text.
        normalizer: kind, see normalizer_for().
        unit: kind, see unit_of().
    """
    language = heard.written
    unit = unit_of(language, unit)
    known = normalizer_for(normalizer, language, unit)
    said, found = known.apply(heard.utterance.text), known.apply(heard.text)
    counts: dict[str, ErrorCounts] = {}
    if said:
        raw = heard.utterance.text, heard.text
        for kind, name in METRICS.items():
            if kind in ("word", "character", unit):  # words and characters always
                counts[name] = errors(said, found, kind)
                counts[f"{name}_ortho"] = errors(*raw, kind)
        if language == KOREAN:
            counts |= _korean(heard, normalizer)
        if is_folded(language):
            folded = fold(said, language), fold(found, language)
            counts[f"{METRICS[unit]}_folded"] = errors(*folded, unit)
            counts["wrong_script"] = wrong_script(*raw, language)
    return ComparedTexts(
        reference=said, hypothesis=found, unit=unit, normalizer=known.name, counts=counts
    )


def _korean(heard: Hypothesis, normalizer: str) -> dict[str, ErrorCounts]:
    """Count with the spaces that the writer put: words, and characters with them."""
    spaced = normalizer_for(normalizer, KOREAN, "word")
    said, found = spaced.apply(heard.utterance.text), spaced.apply(heard.text)
    return {
        "wer": errors(said, found, "word"),
        "cer_spaces": errors(said, found, "character"),
    }
