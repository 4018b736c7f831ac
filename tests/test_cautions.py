"""What is allowed, and what a person should know of before it costs a night."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.utterance import Utterance
from trainer.remarks import cautions

ACCELERATOR: Any = SimpleNamespace(device=torch.device("cpu"), num_processes=1)


def told(texts: list[str], *, multilingual: bool | None) -> list[str]:
    """Return what is said of training a model on texts."""
    model: Any = torch.nn.Linear(1, 1)
    model.generation_config = SimpleNamespace(is_multilingual=multilingual)
    said = [Utterance(id=text, audio="", text=text) for text in texts]
    manifest: Any = SimpleNamespace(train=said, dev=[], test=[])
    return cautions(manifest, ACCELERATOR, model)


def test_an_english_only_model_on_chinese_texts_is_told() -> None:
    (line,) = told(["一二三", "四五", "six"], multilingual=False)
    assert "2 of the first 3 texts have no letter of it" in line


@pytest.mark.parametrize("multilingual", [True, None])
def test_a_model_of_many_languages_reads_what_it_likes(multilingual: bool | None) -> None:
    assert told(["一二三"], multilingual=multilingual) == []


def test_a_number_among_english_texts_is_nothing_to_tell() -> None:
    assert told(["one", "two", "3"], multilingual=False) == []
