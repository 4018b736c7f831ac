"""Passes in half precision compute what the stock model does, and its gradient."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from data.batch import IGNORE_INDEX
from eval.whisper import load_whisper
from tests.benchmark.operations import Counts, OperationCounter, count_operations
from trainer.distributed.build_engine import build_engine
from trainer.distributed.engine import Engine
from trainer.half_precision.compiled import compile_layers
from trainer.half_precision.forward import HalfForward
from trainer.model import ModelConfig, TrainingModule, prepare_training
from trainer.optimizer import OptimConfig

Gradients = dict[str, Tensor]
Inputs = tuple[Tensor, Tensor, Tensor]
ALL = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
FRAMES = pytest.mark.parametrize("frames", [208, 2976, 3000])  # silence behind, too little, none


def inputs(frames: int = 208) -> Inputs:
    """Return features of three clips, decoder inputs and labels of ragged length."""
    torch.manual_seed(0)
    ids, labels = torch.randint(0, 200, (2, 3, 7))
    labels[1, 3:], labels[2, :2] = IGNORE_INDEX, IGNORE_INDEX
    return torch.randn(3, 80, frames), ids, labels


def module_of(model: Path, **knobs: Any) -> TrainingModule:
    """Return a training module, with weights that are not small."""
    module = prepare_training(load_whisper(str(model)), ModelConfig(**knobs)).train()
    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        if name.endswith("bias") or ".lora_B." in name:  # which are 0 in a new model
            torch.nn.init.normal_(parameter, std=0.1)
    module.update_silence_states(module.whisper)
    return module


def half_of(module: TrainingModule, dtype: torch.dtype, **more: Any) -> TrainingModule:
    """Make a module compute from copies of its weights."""
    module.half_forward = HalfForward(module.whisper, dtype, torch.device("cpu"), **more)
    module.half_forward.weights.begin_update()
    return module


def gradients_of(module: TrainingModule, batch: Inputs) -> Gradients:
    """Return the gradient of a pass."""
    module(*batch).sum().backward()
    if module.half_forward is not None:
        module.half_forward.weights.end_update()
    return {
        name: parameter.grad.clone()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def difference(found: Gradients, expected: Gradients) -> float:
    """Return the norm of the difference, as a share of the norm of what is expected."""
    assert found.keys() == expected.keys()
    squares = [
        (float((found[name] - value).square().sum()), float(value.square().sum()))
        for name, value in expected.items()
    ]
    return float((sum(a for a, _ in squares) / sum(b for _, b in squares)) ** 0.5)


@FRAMES
@pytest.mark.parametrize("silence", [True, False])
def test_in_float32_losses_and_gradients_are_those_of_the_stock_model(
    wide_model: Path, frames: int, silence: bool
) -> None:
    batch = inputs(frames)
    module = module_of(wide_model, silence_states=silence)
    expected, stock = module(*batch), gradients_of(module, batch)
    module.zero_grad()
    half_of(module, torch.float32)
    torch.testing.assert_close(module(*batch), expected, rtol=1e-5, atol=1e-5)
    assert difference(gradients_of(module, batch), stock) < 1e-5


@pytest.mark.parametrize("knobs", [{}, {"lora_rank": 4}], ids=["all weights", "adapters"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_gradient_is_as_near_to_float32_as_autocast_s(
    wide_model: Path, dtype: torch.dtype, knobs: dict[str, Any]
) -> None:
    batch, module = inputs(), module_of(wide_model, **knobs)
    exact = gradients_of(module, batch)
    module.zero_grad()
    with torch.autocast("cpu", dtype):
        nll = module(*batch)
    nll.sum().backward()
    autocast = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    half = gradients_of(half_of(module, dtype), batch)
    assert difference(half, exact) < 1.5 * difference(autocast, exact)


@pytest.mark.parametrize("silence", [True, False])
def test_gradients_of_passes_add_up_in_float32(wide_model: Path, silence: bool) -> None:
    module = half_of(module_of(wide_model, silence_states=silence), torch.bfloat16)
    features, ids, labels = inputs()
    assert module.half_forward is not None
    for row in range(3):
        module(features[row : row + 1], ids[row : row + 1], labels[row : row + 1]).sum().backward()
    total = module.half_forward.weights.gradient.clone()
    module.half_forward.weights.begin_update()
    parts = []
    for row in range(3):
        module(features[row : row + 1], ids[row : row + 1], labels[row : row + 1]).sum().backward()
        parts.append(module.half_forward.weights.gradient.clone())
        module.half_forward.weights.begin_update()
    # a pass adds twice to the keys and values of silence, so that sums have another order
    precision = 1e-6 if silence else 0.0
    torch.testing.assert_close(
        total, parts[0] + parts[1] + parts[2], rtol=precision, atol=precision
    )
    assert not torch.equal(total, total.bfloat16().float())


@pytest.mark.parametrize(
    "knobs",
    [
        {"freeze_encoder": True},
        {"freeze": ("*.layers.0", "*.embed_positions")},
        {"freeze": ("model.decoder.embed_tokens",)},
        {"freeze": ("*.k_proj", "*.v_proj.bias", "model.encoder.conv*")},
        {"freeze": ("*.weight",)},
        {"freeze": ("*.layers.0",), "lora_rank": 4, "lora_modules": ("k_proj", "fc2")},
    ],
)
def test_frozen_weights_get_no_gradient_and_others_theirs(
    wide_model: Path, knobs: dict[str, Any]
) -> None:
    module, batch = module_of(wide_model, **knobs), inputs()
    stock = gradients_of(module, batch)
    module.zero_grad()
    half_of(module, torch.float32, freeze_encoder=module.freeze_encoder)
    assert difference(gradients_of(module, batch), stock) < 1e-5


def test_backward_passes_end_at_the_first_trained_layer(wide_model: Path) -> None:
    frozen = ("model.encoder.conv*", "model.encoder.embed_positions", "model.encoder.layers.0")
    batch = inputs()

    def products(freeze: tuple[str, ...]) -> int:
        module = half_of(module_of(wide_model, freeze=freeze), torch.float32)
        counter, loss = OperationCounter(), module(*batch).sum()
        counter.count(loss.backward)
        return sum(count for name, count in counter.counts.items() if "mm" in name)

    in_a_layer = 8  # two of each linear layer: query, key and value are one
    assert products(()) - products(frozen) >= in_a_layer


@pytest.mark.parametrize("rank", [None, 4])
def test_checkpointed_gradients_equal_plain_ones(wide_model: Path, rank: int | None) -> None:
    module, batch = module_of(wide_model, lora_rank=rank), inputs()
    plain = gradients_of(half_of(module, torch.float32), batch)
    module.zero_grad()
    again = gradients_of(half_of(module, torch.float32, gradient_checkpointing=True), batch)
    assert difference(again, plain) < 1e-5  # products of one layer round in another way


@pytest.mark.parametrize("knobs", [{"dropout": 0.3}, {"lora_rank": 4, "lora_dropout": 0.3}])
def test_dropout_is_drawn_from_the_seed_in_training_alone(
    wide_model: Path, knobs: dict[str, Any]
) -> None:
    module, batch = half_of(module_of(wide_model, **knobs), torch.bfloat16), inputs()
    torch.manual_seed(5)
    first = module(*batch)
    assert not torch.equal(module(*batch), first)
    torch.manual_seed(5)
    assert torch.equal(module(*batch), first)
    module.eval()
    assert torch.equal(module(*batch), module(*batch))


def engine_of(model: Path, precision: Any, **knobs: Any) -> Engine:
    """Return the engine of a run on one process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    whisper, config = load_whisper(str(model)), ModelConfig(**knobs)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    module = prepare_training(whisper, config)
    return build_engine(accelerator, module, config, OptimConfig(), print)


def test_only_runs_in_half_precision_use_it_and_state_dicts_are_the_stock_model_s(
    wide_model: Path,
) -> None:
    stock = engine_of(wide_model, "no")
    assert stock.module.half_forward is None
    assert engine_of(wide_model, "bf16", lora_rank=2).module.half_forward is not None
    assert engine_of(wide_model, "bf16", cast_once=False).module.half_forward is None
    engine = engine_of(wide_model, "bf16")
    assert engine.module.half_forward is not None
    AcceleratorState._reset_state(reset_partial_state=True)
    state, expected = engine.module.state_dict(), stock.module.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_without_half_precision_a_sentence_says_that_nothing_is_compiled(
    blank_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert engine_of(blank_model, "no", compile=True).module.half_forward is None
    AcceleratorState._reset_state(reset_partial_state=True)
    assert "warning: model.compile has no effect on the stock model" in capsys.readouterr().out


def test_where_compiling_fails_a_sentence_says_so_and_training_goes_on(
    wide_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(layer: object, dynamic: bool) -> object:
        def compiled(*_: object) -> None:
            raise RuntimeError(f"no compiler\n{layer} {dynamic}")

        return compiled

    monkeypatch.setattr("torch.compile", fail)
    module = engine_of(wide_model, "bf16", compile=True).module
    AcceleratorState._reset_state(reset_partial_state=True)
    assert capsys.readouterr().out == (
        "warning: torch.compile failed (no compiler): training goes on without it; "
        "model.compile=false does not try it\n"
    )
    assert gradients_of(module, inputs())


@pytest.mark.slow  # a minute of a C++ compiler
@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_give_the_same_gradient(
    wide_model: Path, checkpointing: bool, rank: int | None
) -> None:
    module, batch = half_of(module_of(wide_model, lora_rank=rank), torch.float32), inputs()
    assert module.half_forward is not None
    module.half_forward.gradient_checkpointing = checkpointing
    eager = gradients_of(module, batch)
    module.zero_grad()
    failed: list[str] = []
    compile_layers(module.half_forward, 80, module.silence, failed.append)
    assert not failed
    module.half_forward.weights.begin_update()
    assert difference(gradients_of(module, batch), eager) < 1e-5


def test_a_pass_issues_a_third_of_the_operations_and_casts_no_weight() -> None:
    # at whisper-small's depth; a count does not depend on the machine
    counts: dict[bool, Counts] = {
        silence: count_operations(torch.bfloat16, silence=silence) for silence in (True, False)
    }
    assert counts[True].operations <= 1300
    assert counts[True].casts <= 150
    assert counts[True].operations - counts[False].operations <= 100
    assert counts[True].syncs == 0
    assert counts[True].masks == 0
    assert counts[True].update_casts == 1
