"""DataConfig refuses invalid values."""

import re
from typing import Any

import pytest

from data.config import DataConfig
from data.errors import InputError


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"update_seconds": 0.0}, "data.update_seconds must be greater than 0, got 0.0"),
        ({"update_tokens": -1}, "data.update_tokens must be greater than 0, got -1"),
        ({"max_seconds_per_forward": 0.0}, "data.max_seconds_per_forward must be greater than 0"),
        ({"buckets": 0}, "data.buckets must be greater than 0"),
        ({"prefetch": 0}, "data.prefetch must be greater than 0"),
        ({"update_clips": 0}, "data.update_clips must be greater than 0, got 0"),
        ({"max_seconds": 30.5}, "data.max_seconds must lie between 0 and 30, got 30.5"),
        ({"max_seconds": 0.0}, "data.max_seconds must lie between 0 and 30"),
        ({"trailing_silence": -0.1}, "data.trailing_silence must lie between 0 and 1, got -0.1"),
        ({"trailing_silence": 1.1}, "data.trailing_silence must lie between 0 and 1, got 1.1"),
        ({"token_buckets": 0}, "data.token_buckets must be greater than 0"),
        ({"max_tokens_per_forward": 0}, "data.max_tokens_per_forward must be greater than 0"),
        ({"quadratic_memory_seconds": 0.0}, "data.quadratic_memory_seconds must be greater than 0"),
        ({"max_padding": -1.0}, "data.max_padding must be 0 or more, got -1.0"),
        ({"max_broken_share": -0.1}, "data.max_broken_share must lie between 0 and 1, got -0.1"),
        ({"max_broken_share": 1.5}, "data.max_broken_share must lie between 0 and 1, got 1.5"),
        (
            {"max_broken_share": float("nan")},
            "data.max_broken_share must lie between 0 and 1, got nan",
        ),
        ({"workers": -1}, "data.workers must be 0 or more, got -1"),
    ],
)
def test_a_number_out_of_range_is_one_sentence_with_key_and_value(
    knobs: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        DataConfig(**knobs)


def test_the_edges_of_the_ranges_are_allowed() -> None:
    DataConfig(
        max_seconds=30.0, workers=0, update_clips=1, buckets=1, prefetch=1, max_broken_share=0.0
    )


@pytest.mark.parametrize("knob", ["update_seconds", "max_seconds_per_forward"])
def test_a_budget_that_is_not_a_number_is_refused(knob: str) -> None:
    nan: dict[str, Any] = {knob: float("nan")}
    with pytest.raises(InputError, match=f"data.{knob} must be"):
        DataConfig(**nan)  # every comparison with it is False: an update would have no end
