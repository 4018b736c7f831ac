"""Edits and lengths. They add up over clips, batches and processes; rates are divided once."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import jiwer


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Substitutions, deletions, insertions, and the units of the references."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    units: int = 0  # words or characters of the references

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        """Add counts."""
        return ErrorCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def edits(self) -> int:
        """Return all edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Return edits per unit of the reference; 0 where there is no reference."""
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


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Count edits of words. References must not be empty: jiwer refuses them."""
    if not references:
        return ErrorCounts()
    return _counts(jiwer.process_words(list(references), list(hypotheses)))


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Count edits of characters, spaces among them. References must not be empty."""
    if not references:
        return ErrorCounts()
    return _counts(jiwer.process_characters(list(references), list(hypotheses)))


def _counts(output: "jiwer.WordOutput | jiwer.CharacterOutput") -> ErrorCounts:
    units = output.hits + output.substitutions + output.deletions
    return ErrorCounts(output.substitutions, output.deletions, output.insertions, units)
