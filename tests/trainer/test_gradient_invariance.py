"""An update's gradient does not depend on how it is cut: into passes, or over processes.

Nothing is stood in for: the real corpus, sampler, loader, model, optimizer and step, and, where
there are several processes, DDP over gloo.
"""

import multiprocessing
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from data.batch import Batch, Position
from data.config import DataConfig
from data.corpora import read
from data.dataloader import BatchPreparer, train_batches
from data.labels import LabelEncoder
from data.log_mel import FRAMES_PER_SECOND
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.sampling.padded_length import padded_frames
from data.utterance import Utterance
from eval.whisper import Whisper, load_whisper
from trainer.distributed.accelerator import build_accelerator
from trainer.distributed.collectives import sum_over_processes
from trainer.distributed.engine import Engine
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig, build_optimizer, lr_at
from trainer.state import Totals
from trainer.step import StepResult, set_lr, train_step

CLIPS = 16  # an update, and an epoch
UPDATES = 3
# clipping would hide a gradient that is wrong in its size alone
OPTIM = OptimConfig(lr=1e-3, warmup=2, schedule="cosine", max_norm=1e9)


class Cut(NamedTuple):
    """How an update is cut up."""

    clips: int  # a pass
    passes: int  # a process
    processes: int
    fixed_shapes: bool = False


CUTS = [
    Cut(16, 1, 1),
    Cut(4, 4, 1),
    Cut(1, 16, 1),
    Cut(4, 2, 2),
    Cut(1, 6, 3),  # 16 clips are 6, 5 and 5: two processes make up with a pass of silence
    Cut(4, 4, 1, True),
    Cut(3, 2, 3, True),  # 16 clips are 6, 5 and 5: rows of silence fill the passes of two processes
]


@dataclass
class Update:
    """Data of an update on one process."""

    batches: list[Batch]
    result: StepResult
    lr: list[float]  # of each parameter group
    gradient: dict[str, Tensor]


@dataclass
class Trained:
    """Data of a run on one process."""

    updates: list[Update]
    weights: dict[str, Tensor]


Seen = dict[str, Trained]  # in float64, and in float32


def in_processes(cut: Cut, model: Path, corpus: Path, folder: Path) -> list[Seen]:
    """Train in processes of their own: one has one process group, and keeps it."""
    forks = multiprocessing.get_context("forkserver")  # conftest has it import the trainer
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    outs = [folder / f"{cut}-{rank}.pt" for rank in range(cut.processes)]
    processes = []
    for rank, out in enumerate(outs):
        environment = {"ACCELERATE_USE_CPU": "true"}
        if cut.processes > 1:  # what torchrun tells its children
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": port}
            environment |= {"WORLD_SIZE": str(cut.processes), "MASTER_ADDR": "127.0.0.1"}
        processes.append(forks.Process(target=_be, args=(cut, model, corpus, out, environment)))
        processes[-1].start()
    for process in processes:
        process.join(timeout=120)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * cut.processes, cut
    return [torch.load(out, weights_only=False) for out in outs]


def _be(cut: Cut, model: Path, corpus: Path, out: Path, environment: dict[str, str]) -> None:
    """Run one process of a cut, and write its data to a file."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    accelerator = build_accelerator(precision="fp32", deterministic=True, trackers=())
    seen: Seen = {}
    for dtype in ("float64", "float32"):
        whisper = load_whisper(str(model))
        passes = _passes(cut, whisper, corpus, accelerator.process_index)
        seen[dtype] = _train(accelerator, whisper, passes, getattr(torch, dtype))
    torch.save(seen, out)
    accelerator.end_training()


def _train(
    accelerator: Any, whisper: Whisper, passes: Iterable[Batch], dtype: torch.dtype
) -> Trained:
    """Make some updates, and keep each one's gradient."""
    module = prepare_training(whisper, ModelConfig()).to(dtype)
    model, optimizer = accelerator.prepare(module, build_optimizer(module, OPTIM))
    gradients: list[dict[str, Tensor]] = []
    optimizer.optimizer.register_step_pre_hook(
        lambda *_: gradients.append(
            {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
        )
    )
    updates: list[Update] = []
    batches: list[Batch] = []
    for batch in passes:
        batch.features = batch.features.to(dtype)
        batches.append(batch)
        if batch.is_last:
            set_lr(optimizer, lr_at(len(updates) + 1, UPDATES, OPTIM))
            (tokens,) = sum_over_processes(accelerator, [float(Totals.of(batches).tokens)])
            result = train_step(
                Engine(accelerator, model, optimizer),
                batches,
                tokens=int(tokens),
                max_norm=OPTIM.max_norm,
            )
            rates = [group["lr"] for group in optimizer.param_groups]
            updates.append(Update(batches, result, rates, gradients[-1]))
            batches = []
    return Trained(updates, module.state_dict())


def _passes(cut: Cut, whisper: Whisper, corpus: Path, rank: int) -> Iterator[Batch]:
    """Return the passes of one process."""
    # all clips of an update have one length: it is cut by memory alone
    config = DataConfig(
        corpus=(str(corpus),),
        update_clips=CLIPS,
        pad="bucket",
        max_padding=100.0,
        workers=0,
        fixed_shapes=cut.fixed_shapes,
    )
    encoder = whisper.labels()
    rows = _ragged(config, encoder)
    plan, longest = (
        Plan.from_utterances(rows, config, seed=0),
        padded_frames(max(u.seconds for u in rows)),
    )
    config = replace(
        config, max_seconds_per_forward=(cut.clips + 0.5) * longest / FRAMES_PER_SECOND
    )
    sampler = BucketedBatchSampler(plan, config, updates=0, rank=rank, world_size=cut.processes)
    loader = train_batches(rows, config, BatchPreparer(encoder, whisper.n_mels), sampler)
    return loader.start(Position(), UPDATES)


def _ragged(config: DataConfig, encoder: LabelEncoder) -> list[Utterance]:
    """Return clips of 1.2 to 4 s, whose texts have 1 to 20 words. One cannot be decoded."""
    rows = list(read(config, "train"))[:CLIPS]
    rows[5] = replace(rows[5], audio="gone.mp3")
    texts = [" ".join([u.text] * (1 + number % 5)) for number, u in enumerate(rows)]
    counts = encoder.count_tokens(texts, [u.language or "" for u in rows])
    return [replace(u, text=t, tokens=n) for u, t, n in zip(rows, texts, counts, strict=True)]


@pytest.fixture(scope="module")
def runs(
    blank_model: Path, tone_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Cut, list[Seen]]:
    """Return the data of every process of every cut."""
    folder = tmp_path_factory.mktemp("cuts")
    return {cut: in_processes(cut, blank_model, tone_corpus, folder) for cut in CUTS}


@pytest.fixture
def whole(runs: dict[Cut, list[Seen]]) -> Seen:
    """Return the data of a run that is not cut."""
    return runs[CUTS[0]][0]


each_cut = pytest.mark.parametrize("cut", CUTS[1:], ids=str)


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_the_cuts_are_what_they_say_and_the_clips_ragged(
    runs: dict[Cut, list[Seen]], cut: Cut
) -> None:
    for number in range(UPDATES):
        shares = [rank["float64"].updates[number].batches for rank in runs[cut]]
        assert [len(share) for share in shares] == [cut.passes] * cut.processes
        passes = [batch for share in shares for batch in share]
        assert {len(batch.features) for batch in passes} == {cut.clips}
        # else a mean over passes of means over tokens would do as well
        tokens = [n for batch in passes for n in batch.tokens if n]
        seconds = [s for batch in passes for s in batch.seconds if s]
        assert len(tokens) == len(seconds) == CLIPS - 1
        assert max(tokens) > 3 * min(tokens)
        assert max(seconds) > 2 * min(seconds)


@each_cut
def test_in_double_precision_the_gradient_is_the_same_to_ten_digits(
    runs: dict[Cut, list[Seen]], whole: Seen, cut: Cut
) -> None:
    for rank in runs[cut]:
        for one, other in zip(whole["float64"].updates, rank["float64"].updates, strict=True):
            assert one.gradient.keys() == other.gradient.keys()
            assert len(one.gradient) > 30
            for name, gradient in one.gradient.items():
                error = (other.gradient[name] - gradient).abs().max() / gradient.abs().max()
                assert error <= 1e-10, name


@each_cut
def test_in_single_precision_the_gradient_is_the_same_but_for_rounding(
    runs: dict[Cut, list[Seen]], whole: Seen, cut: Cut
) -> None:
    for rank in runs[cut]:
        for one, other in zip(whole["float32"].updates, rank["float32"].updates, strict=True):
            errors = [other.gradient[name] - g for name, g in one.gradient.items()]
            size = torch.nn.utils.get_total_norm(one.gradient.values())
            assert torch.nn.utils.get_total_norm(errors) <= 5e-6 * size


@each_cut
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_losses_norms_and_learning_rates_are_the_same(
    runs: dict[Cut, list[Seen]], whole: Seen, cut: Cut, dtype: str
) -> None:
    for number, one in enumerate(whole[dtype].updates):
        shares = [rank[dtype].updates[number] for rank in runs[cut]]
        loss = sum(share.result.loss.item() for share in shares)
        assert loss == pytest.approx(one.result.loss.item(), rel=5e-6)
        for share in shares:
            assert share.lr == one.lr == [pytest.approx(lr_at(number + 1, UPDATES, OPTIM))] * 2
            norms = share.result.grad_norm, one.result.grad_norm
            torch.testing.assert_close(*norms, rtol=5e-6, atol=0)


@each_cut
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 5e-3)])
def test_the_weights_are_the_same_after_some_updates(
    runs: dict[Cut, list[Seen]], whole: Seen, cut: Cut, dtype: str, tolerance: float
) -> None:
    # AdamW divides by the gradient's size: where that is no more than rounding, so is the direction
    atol = tolerance * sum(update.lr[0] for update in whole[dtype].updates)
    for rank in runs[cut]:
        torch.testing.assert_close(rank[dtype].weights, whole[dtype].weights, rtol=0, atol=atol)
