"""An evaluation casts each weight once, and does not change the model in training."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import eval.evaluate as evaluation
from data.config import DataConfig
from data.corpora import read
from data.utterance import Utterance
from eval.config import EvalConfig
from eval.evaluate import Evaluator
from eval.greedy import GreedyDecoder
from eval.half_precision import half_precision_copy
from eval.whisper import Whisper, load_whisper
from trainer.lora import merge_adapters
from trainer.model import ModelConfig, prepare_training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """Return an Accelerator that computes in bf16 on the CPU."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def rows(tone_corpus: Path) -> list[Utterance]:
    """Return the test split of the tone corpus."""
    return list(read(DataConfig(corpus=(str(tone_corpus),)), "test"))


def evaluator(whisper: Whisper, accelerator: Accelerator) -> Evaluator:
    """Return an evaluator without worker processes."""
    config = EvalConfig(max_length=12)
    data = DataConfig(workers=0)
    return Evaluator(accelerator=accelerator, whisper=whisper, data=data, config=config)


class Casts(TorchDispatchMode):
    """Counts how often each weight is cast."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.own = {weight.data_ptr() for weight in model.parameters()}
        self.counts: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.own:
            where = args[0].data_ptr()
            self.counts[where] = self.counts.get(where, 0) + 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("true_length", [False, True])
@pytest.mark.parametrize("lora_rank", [None, 2])
def test_an_evaluation_casts_no_weight_twice(
    blank_model: Path,
    accelerator: Accelerator,
    rows: list[Utterance],
    lora_rank: int | None,
    true_length: bool,
) -> None:
    whisper = load_whisper(str(blank_model))
    prepare_training(whisper, ModelConfig(lora_rank=lora_rank))
    with Casts(whisper.model) as casts:
        scores, _ = evaluator(whisper, accelerator).evaluate(
            rows, "test", true_length=true_length, with_reference_loss=True
        )
    assert sum(group.clips for group in scores.groups) == len(rows)
    assert len(casts.counts) == len(casts.own)
    assert set(casts.counts.values()) == {1}


def test_a_copy_equals_a_cast_model_and_the_original_does_not_change(
    blank_model: Path, accelerator: Accelerator, rows: list[Utterance]
) -> None:
    whisper, cast = load_whisper(str(blank_model)), load_whisper(str(blank_model))
    before = {name: weight.clone() for name, weight in whisper.model.state_dict().items()}
    trained = [weight.requires_grad for weight in whisper.model.parameters()]
    _, heard = evaluator(whisper, accelerator).evaluate(rows, "test", with_reference_loss=True)
    assert all(torch.equal(w, before[name]) for name, w in whisper.model.state_dict().items())
    assert [weight.requires_grad for weight in whisper.model.parameters()] == trained

    cast.model.to(torch.bfloat16)
    AcceleratorState._reset_state(reset_partial_state=True)
    _, same = evaluator(cast, Accelerator(cpu=True)).evaluate(
        rows, "test", with_reference_loss=True
    )
    assert [h.text for h in heard] == [h.text for h in same]
    assert [h.reference_loss for h in heard] == [h.reference_loss for h in same]


def test_a_copy_has_the_original_classes_and_tied_weights(blank_model: Path) -> None:
    whisper = load_whisper(str(blank_model))
    model = half_precision_copy(whisper, "fp16").model
    assert {weight.dtype for weight in model.parameters()} == {torch.float16}
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    assert [type(m) for m in model.modules()] == [type(m) for m in whisper.model.modules()]
    assert model.state_dict().keys() == whisper.model.state_dict().keys()
    assert half_precision_copy(whisper, "no") is whisper


def test_adapters_are_merged_in_float32_before_casting(blank_model: Path) -> None:
    whisper = load_whisper(str(blank_model))
    prepare_training(whisper, ModelConfig(lora_rank=2))
    for name, weight in whisper.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    expected: dict[str, Tensor] = merge_adapters(whisper.model).to(torch.bfloat16).state_dict()
    found = half_precision_copy(whisper, "bf16").model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert any("lora_A" in name for name in whisper.model.state_dict())


def test_the_copy_is_freed_after_the_evaluation(
    blank_model: Path,
    accelerator: Accelerator,
    rows: list[Utterance],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[weakref.ref[nn.Module]] = []

    def noted(whisper: Whisper, mixed_precision: str, device: torch.device) -> Whisper:
        copy = half_precision_copy(whisper, mixed_precision, device)
        made.append(weakref.ref(copy.model))
        return copy

    monkeypatch.setattr(evaluation, "half_precision_copy", noted)
    whisper = load_whisper(str(blank_model))
    gc.disable()  # its memory is not given back some time later, but at once
    try:
        evaluator(whisper, accelerator).evaluate(rows, "test")
        assert [reference() for reference in made] == [None]
    finally:
        gc.enable()


def test_decoding_in_half_precision_casts_no_weight(blank_model: Path) -> None:
    whisper = load_whisper(str(blank_model))
    half = half_precision_copy(whisper, "bf16")
    prefixes, limits = [half.labels().prefix("en")] * 2, [6, 6]
    states = torch.randn(2, 40, whisper.model.config.d_model)
    with torch.no_grad():  # inference_mode() hides the casts from the counter
        with Casts(half.model) as casts:
            GreedyDecoder(half).decode(states.bfloat16(), prefixes, limits)
        with Casts(whisper.model) as autocasts, torch.autocast("cpu", torch.bfloat16):
            whisper.model.model.decoder(
                input_ids=torch.tensor(prefixes), encoder_hidden_states=states
            )
    assert casts.counts == {}
    assert autocasts.counts  # the counter sees casts
