"""Edits and lengths. They add up over clips, batches and processes; rates are divided once."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

from eval.metrics.units import pieces


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Substitutions, deletions, insertions, and the units of the references."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    units: int = 0  # words or characters of the references

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        """Add counts."""
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.units + other.units,
        )

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


def errors(reference: str, hypothesis: str, unit: str) -> ErrorCounts:
    """Count the edits of one text.

    Args:
        reference: what was said; empty, all of the hypothesis is inserted.
        hypothesis: what was heard.
        unit: word, character or mixed.
    """
    said, heard = pieces(reference, unit), pieces(hypothesis, unit)
    if not said:  # jiwer refuses it
        return ErrorCounts(insertions=len(heard))
    found = aligned(said, heard, unit)
    return ErrorCounts(found.substitutions, found.deletions, found.insertions, len(said))


def aligned(
    said: Sequence[str], heard: Sequence[str], unit: str
) -> "jiwer.WordOutput | jiwer.CharacterOutput":
    """Return the edits of one text in their places.

    Args:
        said: what pieces() makes of the reference; not empty.
        heard: what it makes of the hypothesis.
        unit: that they are in.
    """
    if unit == "character":
        return jiwer.process_characters("".join(said), "".join(heard))
    return jiwer.process_words(" ".join(said), " ".join(heard))


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Count edits of words."""
    return _total(references, hypotheses, "word")


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Count edits of characters, spaces among them."""
    return _total(references, hypotheses, "character")


def _total(references: Sequence[str], hypotheses: Sequence[str], unit: str) -> ErrorCounts:
    pairs = zip(references, hypotheses, strict=True)
    return sum((errors(said, heard, unit) for said, heard in pairs), ErrorCounts())
