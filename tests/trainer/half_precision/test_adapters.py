"""Adapters and frozen weights in half precision: what peft computes, and where weights lie."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from eval.half_precision import half_precision_copy
from eval.silence_states import compute_silence_states
from eval.whisper import load_whisper
from tests.benchmark.operations import count_operations
from tests.trainer.half_precision.test_forward import (
    ALL,
    FRAMES,
    difference,
    engine_of,
    gradients_of,
    half_of,
    inputs,
    module_of,
)
from trainer.distributed.build_engine import move_trained
from trainer.half_precision.forward import HalfForward

pytest.importorskip("peft", reason="the extra lora is not installed")


@FRAMES
@pytest.mark.parametrize("modules", [ALL, ("q_proj", "v_proj"), ("decoder.layers.1.*",)])
def test_in_float32_adapters_are_those_of_peft(
    wide_model: Path, frames: int, modules: tuple[str, ...]
) -> None:
    batch, module = inputs(frames), module_of(wide_model, lora_rank=4, lora_modules=modules)
    expected, stock = module(*batch), gradients_of(module, batch)
    module.zero_grad()
    half_of(module, torch.float32)
    torch.testing.assert_close(module(*batch), expected, rtol=1e-5, atol=1e-5)
    assert difference(gradients_of(module, batch), stock) < 1e-5
    assert all(".lora_" in name for name in stock)


@pytest.mark.parametrize("rank", [None, 4])
def test_silence_states_are_those_of_the_stock_model(wide_model: Path, rank: int | None) -> None:
    module = module_of(wide_model, lora_rank=rank, lora_modules=ALL)
    expected = compute_silence_states(module.whisper)
    half_of(module, torch.float32)
    assert module.half_forward is not None
    torch.testing.assert_close(module.half_forward.compute_silence_states(), expected)
    assert module.whisper.training
    half_of(module, torch.bfloat16).update_silence_states(module.whisper)
    assert module.silence is not None
    assert float((module.silence - expected).norm() / expected.norm()) < 0.01


@pytest.mark.parametrize("knobs", [{"lora_rank": 4, "lora_modules": ALL}, {"freeze_encoder": True}])
def test_frozen_float32_weights_stay_in_host_memory(
    wide_model: Path, knobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the meta device computes nothing, but refuses tensors of another device
    module, meta = module_of(wide_model, **knobs), torch.device("meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # meta has none
    names = list(module.state_dict())
    move_trained(module, meta)
    assert list(module.state_dict()) == names
    for parameter in module.parameters():
        assert parameter.device.type == ("meta" if parameter.requires_grad else "cpu")
    module.half_forward = half = HalfForward(
        module.whisper, torch.bfloat16, meta, freeze_encoder=module.freeze_encoder
    )
    half.weights.begin_update()
    module.update_silence_states(module.whisper)
    batch, targets = [tensor.to(meta) for tensor in inputs()], torch.zeros(9, device=meta).long()
    module(*batch, targets=targets).sum().backward()
    half.weights.end_update()
    assert {value.device.type for value in half.weights.values.values()} == {"meta"}
    whisper = replace(load_whisper(str(wide_model)), model=module.whisper)
    copy = half_precision_copy(whisper, "bf16", meta)
    assert {weight.device.type for weight in copy.model.parameters()} == {"meta"}


def test_a_loaded_checkpoint_replaces_frozen_weights_too(wide_model: Path) -> None:
    engine, batch = engine_of(wide_model, "bf16", lora_rank=4), inputs()
    other = module_of(wide_model, lora_rank=4)
    engine.begin_update()
    before = engine.module(*batch)
    engine.module.load_state_dict(other.state_dict())
    engine.begin_update()
    assert not torch.allclose(engine.module(*batch), before)
    assert torch.equal(engine.module(*batch), half_of(other, torch.bfloat16)(*batch))
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_pass_with_adapters_issues_half_of_the_operations_and_casts_no_weight() -> None:
    autocast, once = (
        count_operations(torch.bfloat16, silence=True, autocast=cast, adapters=ALL)
        for cast in (True, False)
    )
    assert once.operations <= autocast.operations / 2
    assert once.casts <= 150
    assert (once.syncs, once.masks, once.update_casts) == (0, 0, 1)
