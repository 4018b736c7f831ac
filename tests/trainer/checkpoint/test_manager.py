"""Checkpoints are written beside training, and a full disk does not end it."""

import contextlib
import errno
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import trainer.checkpoint.writer
from data.errors import InputError
from trainer.checkpoint.atomic_folder import move, verify, write_manifest
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.rotation import CheckpointConfig, CheckpointRotation
from trainer.checkpoint.snapshot import Snapshot
from trainer.state import TrainState

SHAPE = {"seed": 1}


class Bench:
    """Checkpoints over a prepared two-layer model, and what they told a person."""

    def __init__(self, folder: Path) -> None:
        self.accelerator = Accelerator(cpu=True)
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        self.model, self.optimizer = self.accelerator.prepare(
            model, torch.optim.AdamW(model.parameters())
        )
        self.told: list[str] = []
        rotation = CheckpointRotation(folder, CheckpointConfig())
        self.checkpoints = Checkpoints(rotation, self.accelerator, self.told.append)

    def update(self) -> None:
        """Move the weights."""
        self.model(torch.ones(1, 2)).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self, step: int) -> Path:
        """Begin to save a state of this update."""
        self.checkpoints.save(TrainState(step=step), SHAPE)
        return self.checkpoints.rotation.folder / f"step-{step:08d}"

    def saved(self, step: int) -> Path:
        """Save a state of this update, and wait."""
        path = self.save(step)
        self.checkpoints.wait_for_write()
        return path

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a copy."""
        return {name: value.clone() for name, value in self.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Tell whether two models have the same bits."""
    return all(torch.equal(a[name], b[name]) for name in a | b)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a bench whose retries do not wait."""
    monkeypatch.setattr(trainer.checkpoint.writer, "RETRY_SECONDS", (0.0, 0.0))
    return Bench(tmp_path / "checkpoints")


def test_what_was_saved_is_restored(bench: Bench) -> None:
    bench.update()
    weights, moments = bench.weights(), bench.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    path = bench.saved(3)
    bench.update()
    state = TrainState()
    assert bench.checkpoints.find("auto") == path
    bench.checkpoints.load(path, state)
    assert state.step == 3
    assert same(bench.weights(), weights)
    assert torch.equal(bench.optimizer.state_dict()["state"][0]["exp_avg"], moments)


def test_every_file_is_in_the_manifest(bench: Bench) -> None:
    bench.update()
    path = bench.saved(1)
    verify(path)
    assert {file.name for file in path.iterdir()} == {
        "model.safetensors",
        "optimizer.bin",
        "state.json",
        "manifest.json",
    }


def test_training_goes_on_while_a_checkpoint_is_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go = threading.Event(), threading.Event()
    write = Snapshot.write

    def slow(self: Snapshot, folder: Path) -> None:
        entered.set()
        assert go.wait(30)
        write(self, folder)

    monkeypatch.setattr(Snapshot, "write", slow)
    bench.update()
    weights = bench.weights()
    path = bench.save(1)
    assert entered.wait(30)
    bench.update()  # before a byte was written
    assert not path.exists()
    go.set()
    bench.checkpoints.wait_for_write()
    assert not same(bench.weights(), weights)
    bench.checkpoints.load(path, TrainState())
    assert same(bench.weights(), weights)


def test_the_next_save_waits_for_the_one_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing: list[int] = []
    write = Snapshot.write

    def alone(self: Snapshot, folder: Path) -> None:
        writing.append(1)
        assert len(writing) == 1
        write(self, folder)
        writing.pop()

    monkeypatch.setattr(Snapshot, "write", alone)
    for step in range(1, 6):
        bench.save(step)
    bench.checkpoints.close()
    assert [path.name[-1] for path in bench.checkpoints.rotation.all()] == ["4", "5"]


def test_a_state_that_changes_while_weights_are_written_does_not_wait_for_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, writes = threading.Event(), []
    write = Snapshot.write

    def slow(self: Snapshot, folder: Path) -> None:
        writes.append(folder)
        assert go.wait(30)
        write(self, folder)

    monkeypatch.setattr(Snapshot, "write", slow)
    path = bench.save(1)
    bench.checkpoints.save(TrainState(step=1, evaluated_step=1), SHAPE)
    assert not path.exists()
    go.set()
    assert bench.checkpoints.is_saved(1)
    verify(path)
    assert len(writes) == 1
    state = TrainState()
    bench.checkpoints.load(path, state)
    assert state.evaluated_step == 1


def test_a_state_without_its_weights_is_not_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def refused(*_: object) -> None:
        assert go.wait(30)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Snapshot, "write", refused)
    path = bench.save(1)
    bench.checkpoints.save(TrainState(step=1, evaluated_step=1), SHAPE)
    go.set()
    assert not bench.checkpoints.is_saved(1)
    assert not path.exists()
    monkeypatch.undo()
    assert bench.saved(1) == path  # it is tried again when it is due
    verify(path)


def test_a_checkpoint_that_somebody_took_away_ends_no_run(bench: Bench) -> None:
    shutil.rmtree(bench.saved(1))
    bench.checkpoints.save(TrainState(step=1, evaluated_step=1), SHAPE)
    bench.checkpoints.wait_for_write()
    assert "the evaluation of update 1 could not be added" in bench.told[0]


def test_a_mistake_of_the_writer_is_raised_at_the_next_save(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Snapshot, "write", lambda *_: [][0])
    bench.save(1)
    with pytest.raises(IndexError):
        bench.save(2)
    with pytest.raises(IndexError):
        bench.saved(3)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EIO, "Input/output error"),
        RuntimeError("PytorchStreamWriter failed writing file data/1"),
    ],
    ids=lambda error: str(error)[:18],
)
def test_a_full_or_broken_disk_is_told_and_training_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    old = bench.saved(1)
    tries = []

    def fail(self: Snapshot, folder: Path) -> None:
        tries.append((folder / "half").write_bytes(b"half"))
        raise error

    monkeypatch.setattr(Snapshot, "write", fail)
    bench.saved(2)
    assert len(tries) == 3
    assert "NO CHECKPOINT of update 2" in bench.told[0]
    assert list(bench.checkpoints.rotation.folder.iterdir()) == [old]
    verify(old)
    with pytest.raises(InputError, match="last checkpoint could not be written"):
        bench.checkpoints.close()
    monkeypatch.undo()
    bench.saved(3)  # space was freed
    bench.checkpoints.close()


def test_a_disk_that_recovers_gets_its_checkpoint(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, fails = Snapshot.write, [OSError(errno.ENOSPC, "full")]

    def once(self: Snapshot, folder: Path) -> None:
        write(self, folder)
        if fails:
            raise fails.pop()

    monkeypatch.setattr(Snapshot, "write", once)
    verify(bench.saved(1))
    assert bench.told == []


def test_weights_that_are_no_numbers_do_not_replace_those_that_are(bench: Bench) -> None:
    old = bench.saved(1)
    with torch.no_grad():
        bench.model[0].weight.fill_(torch.nan)
    bench.saved(2)
    assert "0.weight contains NaN or infinite values" in bench.told[0]
    assert bench.checkpoints.find("auto") == old


def test_free_space_is_asked_for_before_a_byte_is_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(trainer.checkpoint.atomic_folder.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(Snapshot, "write", lambda *_: [][0])
    bench.saved(1)
    assert "MB are needed" in bench.told[0]


def test_tied_weights_are_saved_once_and_restored_tied(bench: Bench) -> None:
    tied = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    bench.accelerator.free_memory()
    bench.accelerator.prepare(tied, torch.optim.AdamW(tied.parameters()))
    assert len(Snapshot.take(bench.accelerator).weights) == 3
    before = tied[0].weight.detach().clone()
    path = bench.saved(1)
    with torch.no_grad():
        tied[0].weight.zero_()
    bench.checkpoints.load(path, TrainState())
    assert torch.equal(tied[1].weight, before)


class Bomb:
    """Writes a file when it is unpickled without care."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


SLOTS = (
    "optimizer.bin",
    "scaler.pt",
    "random_states_0.pkl",
    "custom_checkpoint_0.pkl",
    "pytorch_model.bin",
    "model.safetensors",
    "scheduler.bin",
    "sampler.bin",
    "dl_state_dict.bin",
    "state.json",
)


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_malicious_pickle_never_runs(bench: Bench, slot: str, form: str, tmp_path: Path) -> None:
    bench.update()
    path, trace = bench.saved(1), tmp_path / "trace"
    if form == "pickle":
        (path / slot).write_bytes(pickle.dumps(Bomb(trace)))
    else:
        torch.save(Bomb(trace), path / slot)
    if slot == "pytorch_model.bin":
        (path / "model.safetensors").unlink()
    (path / "manifest.json").unlink()
    write_manifest(path)  # whoever can write a file can write its hash
    move(path, path.with_name("step-00000007"))
    with contextlib.suppress(Exception):  # each slot's reader has its own; some are never read
        bench.checkpoints.load(path.with_name("step-00000007"), TrainState())
    assert not trace.exists()


def test_a_loss_scale_is_restored_or_begins_afresh_when_the_precision_changed(
    tmp_path: Path,
) -> None:
    plain, scaled, again = (Bench(tmp_path / name) for name in ("plain", "scaled", "again"))
    for bench in (scaled, again):
        bench.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
    scaled.accelerator.scaler.load_state_dict(
        scaled.accelerator.scaler.state_dict() | {"scale": 512.0}
    )
    plain.update()
    scaled.update()
    without, having = plain.saved(1), scaled.saved(1)
    assert (having / "scaler.pt").is_file()

    again.checkpoints.load(without, TrainState())
    assert same(again.weights(), plain.weights())
    assert again.accelerator.scaler.get_scale() == 4096.0
    assert "saved without fp16: the loss scale starts again at 4,096" in again.told.pop()
    again.checkpoints.load(having, TrainState())
    assert same(again.weights(), scaled.weights())
    assert again.accelerator.scaler.get_scale() == 512.0
    assert again.told == []
    plain.checkpoints.load(having, TrainState())
    assert same(plain.weights(), scaled.weights())
    assert "saved with fp16: its loss scale is not needed" in plain.told.pop()
    assert not (plain.saved(2) / "scaler.pt").exists()
