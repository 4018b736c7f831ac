"""Frozen weights in 4 bits: passes dequantize them, and what is saved is exact float32."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from data.errors import InputError
from tests.interrupted import interrupted
from tests.trainer.half_precision.test_forward import (
    ALL,
    difference,
    gradients_of,
    half_of,
    inputs,
    module_of,
)
from trainer.half_precision.forward import HalfForward
from trainer.half_precision.four_bit import FourBitMatrix, linear, refuse_without_bitsandbytes
from trainer.half_precision.kinds import kinds_of
from trainer.model import ModelConfig

pytest.importorskip("peft", reason="the extra lora is not installed")
CPU = torch.device("cpu")
QLORA = ("--model.lora_rank=4", "--model.base_bits=4", "--precision=bf16")


@pytest.fixture
def bitsandbytes() -> None:
    """Skip the test without bitsandbytes."""
    pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")


@pytest.mark.usefixtures("bitsandbytes")
def test_products_and_gradients_are_those_of_the_dequantized_matrix() -> None:
    torch.manual_seed(0)
    original, bias = torch.randn(200, 144), torch.randn(200)
    matrix, states = FourBitMatrix(original), torch.randn(3, 5, 144, requires_grad=True)
    dense = matrix.dequantize()
    assert 0 < float((dense - original).norm() / original.norm()) < 0.15
    assert matrix.nbytes < 0.53 * original.numel()
    (gradient,) = torch.autograd.grad(linear(states, matrix, bias).square().sum(), states)
    (expected,) = torch.autograd.grad(F.linear(states, dense, bias).square().sum(), states)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.usefixtures("bitsandbytes")
@pytest.mark.parametrize("frames", [208, 3000])  # with the states of silence, and without
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_pass_is_that_of_a_model_with_the_dequantized_weights(
    wide_model: Path, frames: int, checkpointing: bool
) -> None:
    module, batch = module_of(wide_model, lora_rank=4, lora_modules=ALL), inputs(frames)
    half_of(module, torch.float32, four_bits=True, gradient_checkpointing=checkpointing)
    assert module.half_forward is not None
    weights, loss = module.half_forward.weights, module(*batch)
    found = gradients_of(module, batch)
    module.zero_grad()
    assert len(weights.matrices) == 11
    for kind in kinds_of(module.whisper, head_padding=8):
        if kind.name in weights.matrices:
            dense = weights.dense(kind.name)
            for part in kind.parts:
                part.parameter.data = dense[part.index].reshape(part.parameter.shape)
    module.half_forward = None
    torch.testing.assert_close(module(*batch), loss, rtol=1e-5, atol=1e-5)
    assert difference(found, gradients_of(module, batch)) < 1e-5


@pytest.mark.usefixtures("bitsandbytes")
def test_the_copies_take_less_than_half_of_those_in_half_precision(wide_model: Path) -> None:
    whisper = module_of(wide_model, lora_rank=4).whisper
    plain, small = (
        HalfForward(whisper, torch.bfloat16, CPU, four_bits=bits).weights for bits in (False, True)
    )
    layers = sum(value.nbytes for name, value in plain.values.items() if ".layers." in name)
    assert plain.nbytes - small.nbytes > 0.6 * layers


@pytest.mark.usefixtures("bitsandbytes")
def test_a_run_resumes_exactly_and_exports_the_original_weights_with_the_adapters(
    wide_trainer: Any, tmp_path: Path, losses: Any
) -> None:
    whole = tmp_path / "whole"
    wide_trainer(whole, *QLORA)
    cut = interrupted(whole, tmp_path / "cut", after=3)
    wide_trainer(cut, *QLORA, "--resume=auto")
    assert losses(cut) == losses(whole)
    seen = [float.fromhex(loss) for loss in losses(whole).values()]
    assert seen[-1] < seen[0]
    base = load_file(wide_trainer.model / "model.safetensors")
    weights = load_file(whole / "model" / "model.safetensors")
    saved = load_file(whole / "checkpoints" / "step-00000006" / "model.safetensors")
    for name, weight in weights.items():
        expected = base[name]
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            layer = f"whisper.{name.removesuffix('.weight')}"
            down, up = (saved[f"{layer}.lora_{key}.default.weight"] for key in "AB")
            expected = expected + up @ down * 2.0
        assert torch.equal(weight, expected), name


def test_other_numbers_of_bits_are_refused() -> None:
    with pytest.raises(InputError, match=r"model\.base_bits must be 4 or None, got 8"):
        ModelConfig(base_bits=8, lora_rank=4)


@pytest.mark.parametrize("knobs", [(*QLORA[:2], "--precision=fp32"), QLORA[1:]])
def test_4_bits_without_half_precision_or_lora_are_refused(
    trainer: Any, tmp_path: Path, knobs: tuple[str, ...]
) -> None:
    done = trainer(tmp_path / "run", *knobs, check=False)
    assert done.returncode == 2, done.output
    assert "model.base_bits=4 needs model.lora_rank (such as 32)" in done.output
    assert "Traceback" not in done.output


def test_without_bitsandbytes_a_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match=r'needs bitsandbytes .* "whisper-loop\[qlora\]"'):
        refuse_without_bitsandbytes(CPU)
