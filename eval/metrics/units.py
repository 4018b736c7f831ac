"""Units of error rates: words, characters, or both for mixed-language text."""

from collections.abc import Sequence

from data.labels import UNSPACED
from data.writing_systems import SCRIPTS

KOREAN = "ko"
# languages without spaces, or with optional ones: many spaces of Korean may be omitted, so Korean
# results are published as CER without spaces
IN_CHARACTERS = UNSPACED | {KOREAN}
UNSPACED_SCRIPTS = {"Han", "Kana", "Thai", "Lao", "Khmer", "Myanmar"}
METRICS = {"word": "wer", "character": "cer", "mixed": "mer"}  # unit → metric


def unit_of(language: str, kind: str = "auto") -> str:
    """Return the unit of a language's error rate: word, character or mixed.

    Without spaces a word would be a whole sentence, and one wrong character an error of 100 %.

    Args:
        language: Whisper's code.
        kind: auto (by language), or the unit to use for any language.
    """
    if kind != "auto":
        return kind
    return "character" if language in IN_CHARACTERS else "word"


def split_units(text: str, unit: str) -> Sequence[str]:
    """Split a text into its units.

    Mixed units are those of code-switched speech (ASRU 2019's challenge): characters of scripts
    without spaces, and words of other scripts.

    Args:
        text: normalized or raw.
        unit: word, character or mixed.
    """
    if unit == "character":
        return text.strip()
    if unit == "mixed" and not text.isascii():
        text = "".join(f" {c} " if SCRIPTS[c] in UNSPACED_SCRIPTS else c for c in text)
    return text.split()
