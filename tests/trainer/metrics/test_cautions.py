"""What is allowed, and what a person should know of before it costs a night."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import WhisperConfig

from data.config import DataConfig
from data.sampling.epoch_plan import Plan
from data.utterance import Utterance
from trainer.metrics.console import gpu_warnings, start_warnings
from trainer.metrics.flops import WhisperFlops
from trainer.metrics.unused_knobs import unused_knobs
from trainer.model import ModelConfig

ACCELERATOR: Any = SimpleNamespace(device=torch.device("cpu"), num_processes=1)


def told(texts: list[str], *, multilingual: bool | None) -> list[str]:
    """Return what is said of training a model on texts."""
    model: Any = torch.nn.Linear(1, 1)
    model.generation_config = SimpleNamespace(is_multilingual=multilingual)
    said = [Utterance(id=text, audio="", text=text) for text in texts]
    manifest: Any = SimpleNamespace(train=said, dev=[], test=[])
    return start_warnings(manifest, ACCELERATOR, model)


def test_an_english_only_model_on_chinese_texts_is_told() -> None:
    (line,) = told(["一二三", "四五", "six"], multilingual=False)
    assert "2 of the first 3 transcripts have no Latin letters" in line


@pytest.mark.parametrize("multilingual", [True, None])
def test_a_model_of_many_languages_reads_what_it_likes(multilingual: bool | None) -> None:
    assert told(["一二三"], multilingual=multilingual) == []


def test_a_number_among_english_texts_is_nothing_to_tell() -> None:
    assert told(["one", "two", "3"], multilingual=False) == []


SMALL = WhisperFlops(d_model=768, encoder_layers=12, decoder_layers=12, n_mels=80, vocabulary=51865)
LARGE = WhisperFlops(
    d_model=1280, encoder_layers=32, decoder_layers=32, n_mels=128, vocabulary=51866
)
H100, T4 = 989e12, 65e12  # FLOP/s


def of_passes(flops: WhisperFlops, peak: float, processes: int = 1, **knobs: Any) -> list[str]:
    """Return what is said of updates of 5 s clips."""
    clips = [Utterance(id=str(i), audio="", text="", seconds=5.0, tokens=25) for i in range(100)]
    config = DataConfig(**knobs)
    gpus: Any = SimpleNamespace(device=torch.device("cuda"), num_processes=processes)
    return gpu_warnings(config, Plan.from_utterances(clips, config, seed=0), flops, peak, gpus)


def test_passes_too_small_for_a_gpu_are_told_with_the_number_to_set() -> None:
    (line,) = of_passes(SMALL, H100, update_seconds=40)
    asked = int(line.split("data.update_seconds=")[1].split()[0])
    assert 60 < asked < 120
    assert of_passes(SMALL, H100, update_seconds=asked) == []
    assert of_passes(SMALL, T4) == []


def test_more_gpus_and_smaller_models_ask_for_more_and_clips_are_counted_in_clips() -> None:
    def asked(*arguments: Any, **knobs: Any) -> int:
        (line,) = of_passes(*arguments, **knobs)
        return int(line.split("=")[1].split()[0])

    alone = asked(SMALL, H100, update_seconds=40)
    assert asked(SMALL, H100, 8) == pytest.approx(8 * alone, abs=8)
    assert asked(LARGE, H100, 8) < asked(SMALL, H100, 8)
    assert asked(SMALL, H100, update_clips=8) == pytest.approx(alone / 5, abs=1)


@pytest.mark.parametrize(
    ("data", "model", "sentences"),
    [
        ({"fixed_shapes": True}, {}, []),
        ({"buckets": 8, "max_padding": 0.3, "fixed_shapes": False}, {"lora_rank": 4}, []),
        (
            {"buckets": 8, "token_buckets": 1, "max_padding": 0.3, "fixed_shapes": True},
            {},
            [
                "data.buckets=8 has no effect with data.fixed_shapes",
                "data.token_buckets=1 has no effect with data.fixed_shapes",
                "data.max_padding=0.3 has no effect with data.fixed_shapes",
            ],
        ),
        ({"buckets": 8, "fixed_shapes": True, "pad": "packed"}, {}, []),
        (
            {},
            {"lora_rank": 4, "base_bits": 4, "compile": True},
            ["model.compile=True has no effect with model.base_bits"],
        ),
        (
            {"trailing_silence": 0.1, "pad": "30s"},
            {"lora_dropout": 0.1},
            [
                "data.trailing_silence=0.1 has no effect with data.pad=30s",
                "model.lora_dropout=0.1 has no effect without model.lora_rank",
            ],
        ),
    ],
)
def test_a_knob_that_was_set_and_has_no_effect_is_named(
    data: dict[str, Any], model: dict[str, Any], sentences: list[str]
) -> None:
    config = WhisperConfig()
    warnings = list(unused_knobs(DataConfig(**data), ModelConfig(**model), config))
    assert [warning.partition(":")[0] for warning in warnings] == sentences
    config.apply_spec_augment = True
    *_, last = unused_knobs(DataConfig(**data), ModelConfig(**model), config)
    assert last.startswith("apply_spec_augment in the model's config.json has no effect")
