"""Word and character error counts, which are summed over clips and divided once."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

from eval.metrics.units import split_units


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Numbers of substitutions, deletions, insertions, and reference units."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    units: int = 0  # of the references

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        """Return the sum of two counts."""
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.units + other.units,
        )

    @property
    def edits(self) -> int:
        """Number of edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Edits per reference unit; 0 without reference units."""
        return self.edits / self.units if self.units else 0.0

    def to_json(self) -> dict[str, float]:
        """Return the counts and their rate."""
        return {
            "rate": self.rate,
            "substitutions": self.substitutions,
            "deletions": self.deletions,
            "insertions": self.insertions,
            "units": self.units,
        }


def count_errors(reference: str, hypothesis: str, unit: str) -> ErrorCounts:
    """Count the edits between a reference and a hypothesis.

    Args:
        reference: if empty, the whole hypothesis counts as insertions.
        hypothesis: the transcript.
        unit: word, character or mixed.
    """
    ref, hyp = split_units(reference, unit), split_units(hypothesis, unit)
    if not ref:  # jiwer raises on an empty reference
        return ErrorCounts(insertions=len(hyp))
    output = align_units(ref, hyp, unit)
    return ErrorCounts(output.substitutions, output.deletions, output.insertions, len(ref))


def align_units(
    reference: Sequence[str], hypothesis: Sequence[str], unit: str
) -> "jiwer.WordOutput | jiwer.CharacterOutput":
    """Align the units of a reference and a hypothesis.

    Args:
        reference: what split_units() returned; not empty.
        hypothesis: what split_units() returned.
        unit: of both.
    """
    if unit == "character":
        return jiwer.process_characters("".join(reference), "".join(hypothesis))
    return jiwer.process_words(" ".join(reference), " ".join(hypothesis))


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Count the word errors of texts."""
    return _total(references, hypotheses, "word")


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Count the character errors of texts, spaces included."""
    return _total(references, hypotheses, "character")


def _total(references: Sequence[str], hypotheses: Sequence[str], unit: str) -> ErrorCounts:
    pairs = zip(references, hypotheses, strict=True)
    return sum((count_errors(ref, hyp, unit) for ref, hyp in pairs), ErrorCounts())
