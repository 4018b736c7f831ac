"""8-bit AdamW updates weights, skips non-finite gradients, and resumes exactly."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from data.errors import InputError
from trainer.distributed.engine import Engine
from trainer.optimizer import OptimConfig, build_optimizer, optimizer_state_bytes

CONFIG = OptimConfig(name="adamw8bit", lr=0.01)
Losses = Callable[[Path], dict[int, str]]


def learning() -> tuple[nn.Module, Any]:
    """Return a model with a gradient, and its optimizer."""
    pytest.importorskip("bitsandbytes", reason="the extra 8bit is not installed")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 128), nn.Linear(128, 8))
    model(torch.randn(4, 128)).square().sum().backward()
    return model, build_optimizer(model, CONFIG)


def test_it_moves_weights_about_as_adamw_does() -> None:
    model, optimizer = learning()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    for old, new in zip(before, model.parameters(), strict=True):
        moved = (
            (new - old).abs().detach()
        )  # the first update is one of the learning rate, by its sign
        assert float(moved.median()) == pytest.approx(CONFIG.lr, rel=0.1)


@pytest.mark.parametrize("how", ["not finite", "held"])
def test_it_holds_still_and_takes_its_memory_all_the_same(how: str) -> None:
    model, optimizer = learning()
    before = [p.detach().clone() for p in model.parameters()]
    if how == "held":
        Engine(Accelerator(cpu=True), model, optimizer).skip_update()
    else:
        optimizer.found_inf = torch.ones(())
        optimizer.step()
    assert all(map(torch.equal, before, model.parameters()))
    assert all("state1" in optimizer.state[p] for p in model.parameters())
    optimizer.found_inf = torch.zeros(())
    model(torch.randn(4, 128)).square().sum().backward()
    optimizer.step()
    assert not any(map(torch.equal, before, model.parameters()))


def test_its_moments_take_what_was_said() -> None:
    model, optimizer = learning()
    optimizer.step()
    sizes = [
        value.nbytes
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and "qmap" not in name  # one for all
    ]
    assert sum(sizes) == optimizer_state_bytes(model, CONFIG)
    assert optimizer_state_bytes(model, CONFIG) < 0.4 * optimizer_state_bytes(model, OptimConfig())


def test_six_updates_equal_three_and_three(trainer: Any, tmp_path: Path, losses: Losses) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra 8bit is not installed")
    extra = ("--optim.name=adamw8bit", "--data.update_clips=16", "--model.dropout=0.1")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    trainer(whole, *extra)
    trainer(cut, *extra, "--loop.max_steps=3")
    trainer(cut, *extra, "--resume=auto")
    assert losses(cut) == losses(whole)


def test_without_the_extra_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(InputError, match=r'needs bitsandbytes .*"whisper-loop\[8bit\]"'):
        build_optimizer(nn.Linear(3, 3), CONFIG)
