"""Knobs of evaluation refuse what could not work."""

import re
from math import nan
from typing import Any

import pytest

from data.errors import InputError
from eval.config import EvalConfig


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"batch_seconds": 0.0}, "eval.batch_seconds must be greater than 0, got 0.0"),
        ({"batch_seconds": nan}, "eval.batch_seconds must be greater than 0, got nan"),
        ({"forgetting_clips": 0}, "eval.forgetting_clips must be at least 1, got 0"),
        ({"max_length": 0}, "eval.max_length must be at least 1, got 0"),
        ({"num_beams": -1}, "eval.num_beams must be at least 1, got -1"),
        ({"embed_clips": 0}, "eval.embed_clips must be at least 1, got 0"),
        ({"max_length": 449}, "eval.max_length must be at most 448, got 449"),
        ({"tokens_per_second": 0.0}, "eval.tokens_per_second must be greater than 0, got 0.0"),
    ],
)
def test_a_number_out_of_range_is_one_sentence_with_key_and_value(
    knobs: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        EvalConfig(**knobs)


def test_the_edges_of_the_ranges_are_allowed() -> None:
    EvalConfig(batch_seconds=0.1, forgetting_clips=1, max_length=448, num_beams=1)
