"""Hypothesis of an utterance, its normalized texts and its error counts for all metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.utterance import Utterance
from eval.generate import DecodeResult
from eval.metrics.chinese_script import fold, is_folded, wrong_script
from eval.metrics.normalize import normalizer_for
from eval.metrics.units import KOREAN, METRICS, unit_of
from eval.metrics.wer import ErrorCounts, count_errors
from eval.reference_loss import ReferenceLoss


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """An utterance with its reference, and what a model transcribed."""

    utterance: Utterance
    text: str
    tokens: int = 0  # generated, without special tokens
    truncated: bool = False  # decoding reached the token limit
    reference_loss: ReferenceLoss | None = None  # of the reference; None where no label can hold it

    @classmethod
    def of(cls, utterance: Utterance, result: DecodeResult) -> "Hypothesis":
        """Build the hypothesis of an utterance from its DecodeResult."""
        return cls(
            utterance=utterance,
            text=result.text,
            tokens=result.tokens,
            truncated=result.truncated,
            reference_loss=result.reference_loss,
        )

    @property
    def text_language(self) -> str:
        """Language of the texts: English for a translation."""
        return "en" if self.utterance.task == "translate" else self.utterance.language or ""

    @property
    def languages(self) -> str:
        """Name of its group in the scores: its language, or zh-en for a translation of zh."""
        spoken = self.utterance.language or ""
        return spoken if spoken == self.text_language else f"{spoken}-{self.text_language}"

    @property
    def speaker(self) -> str | None:
        """Speaker, unique over corpora; None if unknown."""
        u = self.utterance
        return f"{u.corpus}\0{u.speaker}" if u.speaker else None

    def to_json(self, compared: "ComparedTexts") -> dict[str, Any]:
        """Return a row of utterances.jsonl; edits are of the normalized texts, in the unit."""
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
    """The normalized texts of an utterance, and its error counts."""

    reference: str  # normalized
    hypothesis: str  # normalized
    unit: str  # word, character or mixed
    normalizer: str  # name and version
    counts: Mapping[str, ErrorCounts]  # by metric; empty if the normalized reference is empty

    @property
    def metric(self) -> str:
        """Name of the main metric: wer, cer or mer."""
        return METRICS[self.unit]


def compare_texts(hypothesis: Hypothesis, normalizer: str, unit: str = "auto") -> ComparedTexts:
    """Normalize reference and hypothesis, and count errors.

    A reference that is empty after normalization has no error rate, and gets no counts.

    Args:
        hypothesis: an utterance and its text.
        normalizer: kind, see normalizer_for().
        unit: kind, see unit_of().
    """
    language = hypothesis.text_language
    unit = unit_of(language, unit)
    normalize = normalizer_for(normalizer, language, unit)
    raw = hypothesis.utterance.text, hypothesis.text
    ref, hyp = (normalize.apply(text) for text in raw)
    counts: dict[str, ErrorCounts] = {}
    if ref:
        for kind, name in METRICS.items():
            if kind in ("word", "character", unit):  # WER and CER always
                counts[name] = count_errors(ref, hyp, kind)
                counts[f"{name}_ortho"] = count_errors(*raw, kind)
        if language == KOREAN:
            counts |= _korean_counts(hypothesis, normalizer)
        if is_folded(language):
            folded = fold(ref, language), fold(hyp, language)
            counts[f"{METRICS[unit]}_folded"] = count_errors(*folded, unit)
            counts["wrong_script"] = wrong_script(*raw, language)
    return ComparedTexts(
        reference=ref, hypothesis=hyp, unit=unit, normalizer=normalize.name, counts=counts
    )


def _korean_counts(hypothesis: Hypothesis, normalizer: str) -> dict[str, ErrorCounts]:
    """Count Korean errors with spaces kept: words, and characters with spaces."""
    spaced = normalizer_for(normalizer, KOREAN, "word")
    ref, hyp = spaced.apply(hypothesis.utterance.text), spaced.apply(hypothesis.text)
    return {
        "wer": count_errors(ref, hyp, "word"),
        "cer_spaces": count_errors(ref, hyp, "character"),
    }
