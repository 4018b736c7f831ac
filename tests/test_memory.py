"""A pass that does not fit in memory: found first, cut smaller, and nothing is lost."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from data.buckets import BucketedBatchSampler
from data.config import DataConfig
from data.errors import InputError
from data.plan import Plan
from data.utterance import Shape, Utterance
from eval.whisper import load_whisper
from trainer.memory import rehearse, seconds_after
from trainer.model import ModelConfig, TrainingModule, prepare_training
from trainer.optim import OptimConfig, build_optimizer
from trainer.sealed import verify

Losses = Callable[[Path], dict[int, str]]


def run_out(rows: int, after: int = 0, rank: str = "0") -> None:
    """Make passes of more rows than this run out of memory, in the backward as in the forward."""
    if os.environ.get("RANK", "0") != rank:
        return
    forward = TrainingModule.forward
    calls = 0

    def full(self: TrainingModule, features: Any, *rest: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if len(features) > rows and calls > after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return forward(self, features, *rest, **more)

    TrainingModule.forward = full  # type: ignore[method-assign]


def test_an_update_that_does_not_fit_is_cut_smaller_and_made(
    trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    roomy = ("--data.padding=9",)  # one pass an update
    trainer(tmp_path / "whole", *roomy)
    done = trainer(tmp_path / "cut", *roomy, sabotage=partial(run_out, rows=3, after=2))
    assert "out of memory in a pass of" in done.output
    whole, cut = (losses(tmp_path / name) for name in ("whole", "cut"))
    assert list(cut) == list(whole) == [1, 2, 3, 4, 5, 6]
    for step, loss in whole.items():
        assert float.fromhex(cut[step]) == pytest.approx(float.fromhex(loss), rel=1e-4)


def test_a_single_row_that_does_not_fit_ends_the_run_with_a_checkpoint(
    trainer: Any, tmp_path: Path
) -> None:
    extra = ("--data.padding=9", "--checkpoint.save_every=100")
    sabotage = partial(run_out, rows=0, after=3)
    done = trainer(tmp_path / "run", *extra, sabotage=sabotage, check=False)
    assert done.returncode == 2
    assert "cannot be cut: set model.gradient_checkpointing=true" in done.output
    assert "Traceback" not in done.output
    verify(tmp_path / "run/checkpoints/step-00000003")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_on_several_processes_it_stops_with_a_checkpoint_and_says_what_to_set(
    trainer: Any, tmp_path: Path, losses: Losses, rank: str
) -> None:
    run, extra = tmp_path / "run", ("--data.padding=9", "--checkpoint.save_every=100")
    sabotage = partial(run_out, rows=3, after=2, rank=rank)
    done = trainer(run, *extra, processes=2, sabotage=sabotage, check=False)
    assert done.returncode != 0
    assert "set data.pass_seconds=" in done.output
    verify(run / "checkpoints/step-00000002")
    trainer(run, *extra, "--data.pass_seconds=8", "--resume=auto", processes=2)
    assert list(losses(run)) == [1, 2, 3, 4, 5, 6]


def test_a_rehearsal_moves_nothing_and_takes_the_optimizers_memory(blank_model: Path) -> None:
    accelerator = Accelerator(cpu=True)
    module = prepare_training(load_whisper(str(blank_model)), ModelConfig())
    model, optimizer = accelerator.prepare(module, build_optimizer(module, OptimConfig()))
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    assert rehearse(accelerator, model, optimizer, Shape(2, 64, 9))
    assert all(torch.equal(before[name], w) for name, w in module.state_dict().items())
    states = optimizer.state_dict()["state"].values()
    assert len(states) == sum(p.requires_grad for p in module.parameters())
    assert all(float(each["step"]) == 0 and not each["exp_avg"].any() for each in states)
    assert all(p.grad is None for p in module.parameters())


def test_a_rehearsal_tells_what_does_not_fit(
    blank_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = Accelerator(cpu=True)
    module = prepare_training(load_whisper(str(blank_model)), ModelConfig())

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(TrainingModule, "forward", full)
    assert not rehearse(accelerator, module, None, Shape(2, 64, 9))


def test_the_worst_pass_is_the_largest_of_an_epoch() -> None:
    utterances = [
        Utterance(id=str(i), audio="", text="", seconds=0.5 + i % 29, tokens=5 + i % 40)
        for i in range(200)
    ]
    config = DataConfig(pad="mixed", pass_seconds=70.0)
    plan = Plan.of(utterances, config, seed=0)
    sampler = BucketedBatchSampler(plan, config, updates=3)
    worst = sampler.worst()
    epoch = list(BucketedBatchSampler(plan, config, updates=plan.length(1)))
    assert worst.seconds == max(sum(d.frames for d in each) / 100 for each in epoch)
    assert worst.tokens <= 44
    assert len(list(sampler)) <= len(epoch)  # a look changes nothing


def test_a_pass_is_halved_while_it_can_be() -> None:
    assert seconds_after(Shape(4, 1000, 50), processes=1) == 20.0
    with pytest.raises(InputError, match=r"pass of 1 rows and 10 s .* cannot be cut"):
        seconds_after(Shape(1, 1000, 50), processes=1)
    with pytest.raises(InputError, match=r"set data\.pass_seconds=20 or less"):
        seconds_after(Shape(4, 1000, 50), processes=2)
