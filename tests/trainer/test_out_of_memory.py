"""Passes that do not fit in memory are found before training and made smaller, without losses."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from data.batch import Batch, Shape
from data.config import DataConfig
from data.dataloader import TrainLoader
from data.errors import InputError
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.streaming.stream_train_loader import StreamTrainLoader
from data.utterance import Utterance
from eval.device import is_out_of_memory
from eval.whisper import load_whisper
from trainer.checkpoint.atomic_folder import verify
from trainer.distributed.engine import Engine
from trainer.metrics.flops import WhisperFlops
from trainer.model import ModelConfig, TrainingModule, prepare_training
from trainer.optimizer import OptimConfig, build_optimizer
from trainer.out_of_memory import reduced_limit, try_largest_pass
from trainer.recovery import fit_passes_in_memory

Losses = Callable[[Path], dict[int, str]]


ALLOCATOR = "CUDA out of memory. Tried to allocate 20.00 MiB."
# as PyTorch words them: of a driver call, cuBLAS's handle and its workspace, cuFFT, cuDNN, a CPU
SIGNS = [
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuFFT error: CUFFT_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "GET was unable to find an engine to execute this computation",
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes",
]


def run_out(rows: int, after: int = 0, rank: str = "0", sign: str | None = None) -> None:
    """Make passes of more rows than this run out of memory, in the backward as in the forward."""
    if os.environ.get("RANK", "0") != rank:
        return
    forward = TrainingModule.forward
    calls = 0

    def full(self: TrainingModule, features: Any, *rest: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if len(features) > rows and calls > after:
            raise torch.OutOfMemoryError(ALLOCATOR) if sign is None else RuntimeError(sign)
        return forward(self, features, *rest, **more)

    TrainingModule.forward = full  # type: ignore[method-assign]


def run_out_in_moves(rows: int, after: int) -> None:
    """Make the move of a batch of more rows than this run out of memory."""
    move = Batch.to
    calls = 0

    def full(self: Batch, device: torch.device) -> Batch:
        nonlocal calls
        calls += 1
        if len(self.features) > rows and calls > after:
            raise torch.OutOfMemoryError(ALLOCATOR)
        return move(self, device)

    Batch.to = full  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "sabotage",
    [
        partial(run_out, rows=3, after=2),
        partial(run_out, rows=3, after=2, sign=SIGNS[1]),
        partial(run_out_in_moves, rows=3, after=2),
    ],
    ids=["allocator", "cuBLAS", "while a batch is moved"],
)
def test_an_update_that_does_not_fit_is_cut_smaller_and_made(
    trainer: Any, tmp_path: Path, losses: Losses, sabotage: Callable[[], None]
) -> None:
    roomy = ("--data.max_padding=9",)  # one pass an update
    run = tmp_path / "cut"
    done = trainer(run, *roomy, sabotage=sabotage)
    assert "out of memory in a forward pass of" in done.output
    whole, cut = losses(trainer.reference(*roomy)), losses(run)
    assert list(cut) == list(whole) == [1, 2, 3, 4, 5, 6]
    for step, loss in whole.items():
        assert float.fromhex(cut[step]) == pytest.approx(float.fromhex(loss), rel=1e-4)


def test_a_single_row_that_does_not_fit_ends_the_run_with_a_checkpoint(
    trainer: Any, tmp_path: Path
) -> None:
    extra = ("--data.max_padding=9", "--checkpoint.save_every=100")
    sabotage = partial(run_out, rows=0, after=3)
    done = trainer(tmp_path / "run", *extra, sabotage=sabotage, check=False)
    assert done.returncode == 2
    assert "cannot be split: set model.gradient_checkpointing=true" in done.output
    assert "Traceback" not in done.output
    verify(tmp_path / "run/checkpoints/step-00000003")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_on_several_processes_it_stops_with_a_checkpoint_and_says_what_to_set(
    trainer: Any, tmp_path: Path, losses: Losses, rank: str
) -> None:
    run, extra = tmp_path / "run", ("--data.max_padding=9", "--checkpoint.save_every=100")
    sabotage = partial(run_out, rows=3, after=2, rank=rank)
    done = trainer(run, *extra, processes=2, sabotage=sabotage, check=False)
    assert done.returncode != 0
    assert "set data.max_seconds_per_forward=" in done.output
    verify(run / "checkpoints/step-00000002")
    trainer(run, *extra, "--data.max_seconds_per_forward=8", "--resume=auto", processes=2)
    assert list(losses(run)) == [1, 2, 3, 4, 5, 6]


def test_a_rehearsal_moves_nothing_and_takes_the_optimizers_memory(blank_model: Path) -> None:
    accelerator = Accelerator(cpu=True)
    module = prepare_training(load_whisper(str(blank_model)), ModelConfig())
    model, optimizer = accelerator.prepare(module, build_optimizer(module, OptimConfig()))
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    assert try_largest_pass(Engine(accelerator, model, optimizer), Shape(2, 64, 9)) is None
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
    engine = Engine(accelerator, module, build_optimizer(module, OptimConfig()))
    assert try_largest_pass(engine, Shape(2, 64, 9)) == "CUDA out of memory."


@pytest.mark.parametrize("sign", SIGNS)
def test_every_librarys_lack_of_memory_is_recognised(sign: str) -> None:
    assert is_out_of_memory(RuntimeError(sign))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_the_worst_pass_is_rehearsed_beside_moments_and_an_earlier_passes_gradients(
    blank_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = Accelerator(cpu=True)
    module = prepare_training(load_whisper(str(blank_model)), ModelConfig())
    model, optimizer = accelerator.prepare(module, build_optimizer(module, OptimConfig()))
    held: list[tuple[int, bool, bool]] = []
    forward = TrainingModule.forward

    def seen(self: TrainingModule, features: Any, *rest: Any, **more: Any) -> Any:
        gradients = all(p.grad is not None for p in module.parameters() if p.requires_grad)
        held.append((len(features), bool(optimizer.state_dict()["state"]), gradients))
        return forward(self, features, *rest, **more)

    monkeypatch.setattr(TrainingModule, "forward", seen)
    assert try_largest_pass(Engine(accelerator, model, optimizer), Shape(3, 64, 9)) is None
    assert held[-1] == (3, True, True)


def test_the_worst_pass_has_most_bytes_not_most_audio() -> None:
    audio, text = range(8), range(8, 16)  # long clips of few tokens, short ones of many
    utterances = [
        Utterance(
            id=str(i),
            audio="",
            text="",
            seconds=20.0 if i in audio else 8.0,
            tokens=10 if i in audio else 400,
        )
        for i in (*audio, *text)
    ]
    config = DataConfig(update_clips=8)
    plan = Plan.from_utterances(utterances, config, seed=0)
    sampler = BucketedBatchSampler(plan, config, updates=1)
    small = WhisperFlops(
        d_model=768, encoder_layers=12, decoder_layers=12, n_mels=80, vocabulary=51865
    )
    assert sampler.largest().tokens == 10
    assert replace(sampler, pass_cost=small.activation_bytes).largest().tokens == 400


def test_the_worst_pass_is_the_largest_of_an_epoch() -> None:
    utterances = [
        Utterance(id=str(i), audio="", text="", seconds=0.5 + i % 29, tokens=5 + i % 40)
        for i in range(200)
    ]
    config = DataConfig(max_seconds_per_forward=70.0)
    plan = Plan.from_utterances(utterances, config, seed=0)
    sampler = BucketedBatchSampler(plan, config, updates=3)
    worst = sampler.largest()
    epoch = list(BucketedBatchSampler(plan, config, updates=plan.num_updates(1)))
    assert worst.seconds == max(sum(d.frames for d in each) / 100 for each in epoch)
    assert worst.tokens <= 44
    assert len(list(sampler)) <= len(epoch)  # largest() changes nothing


def test_a_streams_worst_pass_is_smaller_once_passes_were_cut() -> None:
    utterances = [Utterance(id=str(i), audio="", text="", seconds=5.0, tokens=9) for i in range(40)]
    config = DataConfig(update_clips=20)
    plan = Plan.from_utterances(utterances, config, seed=0)
    first = TrainLoader(BucketedBatchSampler(plan, config, updates=1), lambda _: iter(()))  # type: ignore[arg-type,return-value]  # no batch is drawn
    stream = StreamTrainLoader(None, None, None, first, rank=0, world_size=1)  # type: ignore[arg-type]  # no window either
    assert stream.largest.seconds > 90
    stream.shrink(30.0)  # else a rehearsal would cut it for ever
    assert stream.largest.seconds <= 30


def test_passes_are_cut_until_the_rehearsal_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    utterances = [Utterance(id=str(i), audio="", text="", seconds=5.0, tokens=9) for i in range(40)]
    config = DataConfig(update_clips=20)
    plan = Plan.from_utterances(utterances, config, seed=0)
    loader = TrainLoader(BucketedBatchSampler(plan, config, updates=1), lambda _: iter(()))  # type: ignore[arg-type,return-value]  # no batch is drawn
    first, printed = loader.largest.seconds, list[str]()
    outcomes = iter([ALLOCATOR, SIGNS[0], None])
    monkeypatch.setattr("trainer.recovery.try_largest_pass", lambda *_: next(outcomes))
    accelerator = SimpleNamespace(device=torch.device("cuda"), num_processes=1)  # there is no GPU
    engine = SimpleNamespace(
        model=torch.nn.Identity(), accelerator=accelerator, discard_gradients=lambda: None
    )
    flops = WhisperFlops(d_model=8, encoder_layers=1, decoder_layers=1, n_mels=80, vocabulary=9)
    run: Any = SimpleNamespace(
        training=SimpleNamespace(engine=engine, train_loader=loader, flops=flops),
        monitors=SimpleNamespace(recorder=SimpleNamespace(print=printed.append)),
    )
    fit_passes_in_memory(run)
    assert loader.largest.seconds <= first / 4
    assert ["out of memory in a forward pass of" in line for line in printed] == [True, True]


def test_a_pass_is_halved_while_it_can_be() -> None:
    assert reduced_limit(Shape(4, 1000, 50), processes=1, reason="CUDA error") == 20.0
    with pytest.raises(InputError, match=r"pass of 1 rows and 10 s .*, which cannot be split"):
        reduced_limit(Shape(1, 1000, 50), processes=1, reason="CUDA error")
    with pytest.raises(InputError, match=r"set data\.max_seconds_per_forward=20 or less"):
        reduced_limit(Shape(4, 1000, 50), processes=2, reason="CUDA error")
