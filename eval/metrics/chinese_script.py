"""Traditional and simplified Chinese: fold texts to one script, count outputs in the other."""

from functools import cache
from typing import Any

import opencc

from data.writing_systems import HAN, script_of
from eval.metrics.wer import ErrorCounts

# OpenCC configurations: Taiwan's forms, which differ from standard ones in few, and Hong Kong's
OPENCC_CONFIGS = {"zh": "tw2s", "yue": "hk2s"}
UNMIXED = {name for name in HAN.values() if name != "Han, mixed"}


def is_folded(language: str) -> bool:
    """Return whether a language is written in both scripts."""
    return language in OPENCC_CONFIGS


def fold(text: str, language: str) -> str:
    """Return a text converted to simplified characters."""
    return str(_converter(OPENCC_CONFIGS[language]).convert(text))


def wrong_script(reference: str, hypothesis: str, language: str) -> ErrorCounts:
    """Count a hypothesis that contains characters of the other script than its reference.

    Returns:
        One unit, if the scripts of both can be told (台北 is the same in either), else none.
    """
    expected, actual = script_of(reference, language), script_of(hypothesis, language)
    if expected not in UNMIXED or actual not in HAN.values():
        return ErrorCounts()
    return ErrorCounts(int(actual != expected), 0, 0, 1)


@cache
def _converter(config: str) -> Any:
    return opencc.OpenCC(config)
