"""What is compared: texts without what nobody says, under a name that stands beside the figure."""

from collections.abc import Callable
from dataclasses import dataclass

import transformers
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from data.labels import UNSPACED


@dataclass(frozen=True, slots=True)
class Normalizer:
    """A function on texts, and its name."""

    name: str
    apply: Callable[[str], str]


def unit_of(language: str) -> str:
    """Return the unit that a language's errors are counted in: word, or character.

    Where writing has no spaces a word is a whole sentence, and one wrong character makes it wrong.
    """
    return "character" if language in UNSPACED else "word"


def normalizer_for(kind: str, language: str) -> Normalizer:
    """Return the normaliser of a language's texts.

    Args:
        kind: basic (no punctuation, no case, as openai/whisper's BasicTextNormalizer) or none.
        language: Whisper's code. Where words have no spaces, none is kept.
    """
    if kind == "none":
        return Normalizer("none", str.strip)
    basic = BasicTextNormalizer()
    name = f"whisper-basic (transformers {transformers.__version__})"
    if unit_of(language) == "character":
        return Normalizer(f"{name}, no spaces", lambda text: "".join(basic(text).split()))
    return Normalizer(name, lambda text: basic(text).strip())
