"""Traditional or simplified: a text in the other script is heard right, and written otherwise."""

from functools import cache
from typing import Any

import opencc

from data.writing_systems import HAN, script_of
from eval.metrics.wer import ErrorCounts

# OpenCC's tables: of Taiwan's forms, which are the standard ones but for a few, and of Hong Kong's
TABLES = {"zh": "tw2s", "yue": "hk2s"}
ONE = {name for name in HAN.values() if name != "Han, mixed"}


def is_folded(language: str) -> bool:
    """Tell whether a language is written in both scripts."""
    return language in TABLES


def fold(text: str, language: str) -> str:
    """Return a text in simplified characters, whichever it was written in."""
    return str(_converter(TABLES[language]).convert(text))


def wrong_script(reference: str, hypothesis: str, language: str) -> ErrorCounts:
    """Count an output that holds characters of the script that its reference is not in.

    Returns:
        One unit where the script of both can be told: 台北 is written so in either.
    """
    asked, found = script_of(reference, language), script_of(hypothesis, language)
    if asked not in ONE or found not in HAN.values():
        return ErrorCounts()
    return ErrorCounts(int(found != asked), 0, 0, 1)


@cache
def _converter(table: str) -> Any:
    return opencc.OpenCC(table)
