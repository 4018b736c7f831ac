"""Text normalizers for scoring: Whisper's basic and English ones, and one that keeps marks."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

import transformers
from transformers.models.whisper.english_normalizer import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from eval.metrics.units import IN_CHARACTERS, unit_of

UNICODE_VERSION = 1  # of the unicode normalizer's rules: increase it when its output changes
# markup and noises, which Whisper's own normalizers remove too: <b>, [music], (laughs)
REMARK = re.compile(r"[<\[][^>\]]*[>\]]|\(([^)]+?)\)")
VARIATION_SELECTORS = re.compile("[\u180b-\u180d\ufe00-\ufe0f\U000e0100-\U000e01ef]")
WORD = re.compile(r"\w")
DOTTED_I = "i\u0307"  # lower() of Turkish İ


@dataclass(frozen=True, slots=True)
class Normalizer:
    """A normalization function, and its name for reports."""

    name: str
    apply: Callable[[str], str]


class _PunctuationTable(dict[int, str]):
    """A table for str.translate(): punctuation and symbols → space, invisible characters → ""."""

    def __missing__(self, code: int) -> str:
        category = unicodedata.category(chr(code))
        replacements = {"Cf": "", "Me": "", "Cc": " "}
        self[code] = replacements.get(category, " " if category[0] in "PS" else chr(code))
        return self[code]


PUNCTUATION = _PunctuationTable()


def normalizer_for(kind: str, language: str, unit: str = "auto") -> Normalizer:
    """Return the normalizer of a language's texts.

    Args:
        kind: basic (openai/whisper's BasicTextNormalizer: no punctuation, no case), english (its
            EnglishTextNormalizer: also spelling, numbers, contractions), unicode (basic, but it
            keeps the combining marks of Hindi or Thai), none; or auto: english for English, unicode
            for all others.
        language: Whisper's code.
        unit: see unit_of(). Spaces are removed from a language that is scored in characters and
            written without reliable spaces.
    """
    if kind == "auto":
        kind = "english" if language == "en" else "unicode"
    base = _base_normalizer(kind)
    without_spaces = language in IN_CHARACTERS and unit_of(language, unit) == "character"
    if kind == "none" or not without_spaces:
        return base
    return Normalizer(f"{base.name}, no spaces", lambda text: "".join(base.apply(text).split()))


@cache
def _base_normalizer(kind: str) -> Normalizer:
    if kind == "none":
        return Normalizer("none", str.strip)
    if kind == "unicode":
        tables = f"Unicode {unicodedata.unidata_version}"
        return Normalizer(f"unicode {UNICODE_VERSION} ({tables})", _normalize_unicode)
    if kind == "english":
        english, package = EnglishTextNormalizer(), "whisper-normalizer"
        name = f"whisper-english ({package} {version(package)})"
        return Normalizer(name, lambda text: _empty_without_words(str(english(text))))
    basic = BasicTextNormalizer()
    name = f"whisper-basic (transformers {transformers.__version__})"
    return Normalizer(name, lambda text: str(basic(text)).strip())


def _empty_without_words(text: str) -> str:
    """Return "" for a text without words: Whisper's English normalizer turns "..." into "."."""
    return text.strip() if WORD.search(text) else ""


def _normalize_unicode(text: str) -> str:
    """Normalize as Whisper's basic normalizer does, but keep combining marks.

    Vowels of Hindi, tones of Thai and all vowels of Dhivehi are marks (Unicode's category M). The
    basic normalizer replaces each by a space, which splits words into consonants.
    """
    text = unicodedata.normalize("NFKC", REMARK.sub("", text.lower())).lower()
    text = VARIATION_SELECTORS.sub("", text).replace(DOTTED_I, "i")
    return " ".join(text.translate(PUNCTUATION).split())
