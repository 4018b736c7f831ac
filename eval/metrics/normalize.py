"""What is compared: texts without what nobody says, under a name that stands beside the figure."""

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

UNICODE_VERSION = 1  # of the rules below: raise it where a text would come out otherwise
# what Whisper's own normalisers take out, as noises and remarks: <b>, [music], (laughs)
REMARK = re.compile(r"[<\[][^>\]]*[>\]]|\(([^)]+?)\)")
SELECTORS = re.compile("[\u180b-\u180d\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # marks without a sound
WORD = re.compile(r"\w")
DOTTED = "i\u0307"  # what lower() makes of Turkish İ


@dataclass(frozen=True, slots=True)
class Normalizer:
    """A function on texts, and its name."""

    name: str
    apply: Callable[[str], str]


class _Spoken(dict[int, str]):
    """For str.translate(): punctuation and symbols are spaces, what cannot be seen goes."""

    def __missing__(self, code: int) -> str:
        category = unicodedata.category(chr(code))
        known = {"Cf": "", "Me": "", "Cc": " "}
        self[code] = known.get(category, " " if category[0] in "PS" else chr(code))
        return self[code]


SPOKEN = _Spoken()


def normalizer_for(kind: str, language: str, unit: str = "auto") -> Normalizer:
    """Return the normaliser of a language's texts.

    Args:
        kind: basic (no punctuation, no case, as openai/whisper's BasicTextNormalizer), english (its
            EnglishTextNormalizer: also spelling, numbers, contractions), unicode (as basic, with
            the marks that Hindi or Thai are written with), none; or auto: english for English,
            unicode for all others.
        language: Whisper's code.
        unit: see unit_of(). Characters of a language without spaces are compared without them.
    """
    if kind == "auto":
        kind = "english" if language == "en" else "unicode"
    known = _known(kind)
    joined = language in IN_CHARACTERS and unit_of(language, unit) == "character"
    if kind == "none" or not joined:
        return known
    return Normalizer(f"{known.name}, no spaces", lambda text: "".join(known.apply(text).split()))


@cache
def _known(kind: str) -> Normalizer:
    if kind == "none":
        return Normalizer("none", str.strip)
    if kind == "unicode":
        tables = f"Unicode {unicodedata.unidata_version}"
        return Normalizer(f"unicode {UNICODE_VERSION} ({tables})", _keeping_marks)
    if kind == "english":
        english, package = EnglishTextNormalizer(), "whisper-normalizer"
        name = f"whisper-english ({package} {version(package)})"
        return Normalizer(name, lambda text: _with_words(str(english(text))))
    basic = BasicTextNormalizer()
    name = f"whisper-basic (transformers {transformers.__version__})"
    return Normalizer(name, lambda text: str(basic(text)).strip())


def _with_words(text: str) -> str:
    """Return a text, or nothing: Whisper's English normaliser leaves one dot of three."""
    return text.strip() if WORD.search(text) else ""


def _keeping_marks(text: str) -> str:
    """Do what Whisper's basic normaliser does, without taking marks for punctuation.

    Vowels of Hindi, tones of Thai and all vowels of Dhivehi are marks (Unicode's category M): the
    basic one puts a space for each, and a word falls into its consonants.
    """
    spoken = unicodedata.normalize("NFKC", REMARK.sub("", text.lower())).lower()
    spoken = SELECTORS.sub("", spoken).replace(DOTTED, "i")
    return " ".join(spoken.translate(SPOKEN).split())
