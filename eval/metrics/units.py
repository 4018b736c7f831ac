"""What errors are counted in: words, characters, or of a mixed text both."""

from collections.abc import Sequence

from data.labels import UNSPACED
from data.writing_systems import SCRIPTS

KOREAN = "ko"
# of a language that is not spaced, or whose spaces nobody agrees on: a Korean writer may leave out
# many of them, so figures of Korean are published in characters without spaces
IN_CHARACTERS = UNSPACED | {KOREAN}
UNSPACED_SCRIPTS = {"Han", "Kana", "Thai", "Lao", "Khmer", "Myanmar"}
METRICS = {"word": "wer", "character": "cer", "mixed": "mer"}  # the figure that counts it


def unit_of(language: str, kind: str = "auto") -> str:
    """Return the unit that a language's errors are counted in: word, character or mixed.

    Where writing has no spaces a word is a whole sentence, and one wrong character makes it wrong.

    Args:
        language: Whisper's code.
        kind: auto (by language), or a unit for all languages.
    """
    if kind != "auto":
        return kind
    return "character" if language in IN_CHARACTERS else "word"


def pieces(text: str, unit: str) -> Sequence[str]:
    """Return the units of a text.

    Mixed are the units of code-switched speech (ASRU 2019's challenge): each character of a script
    without spaces, and words of the others. Of a text in one script they are its characters, or its
    words.
    """
    if unit == "character":
        return text.strip()
    if unit == "mixed" and not text.isascii():
        text = "".join(f" {c} " if SCRIPTS[c] in UNSPACED_SCRIPTS else c for c in text)
    return text.split()
