"""A checkpoint is complete or absent, and the best one stays."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from data.errors import InputError
from trainer.checkpoint import MANIFEST, CheckpointConfig, Checkpoints, verify
from trainer.state import TrainState

PLAN = {"seed": 1, "data": "abc"}
Make = Callable[..., Checkpoints]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that makes Checkpoints over a prepared two-layer model."""

    def checkpoints(keep: int = 2) -> Checkpoints:
        accelerator = Accelerator(cpu=True)
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
        config = CheckpointConfig(keep=keep)
        return Checkpoints(tmp_path / "checkpoints", accelerator, config)

    return checkpoints


def save(checkpoints: Checkpoints, step: int, best: int = 0) -> Path:
    """Save a state of this update."""
    checkpoints.save(TrainState(step=step, best_step=best), PLAN)
    return checkpoints.folder / f"step-{step:08d}"


def test_what_was_saved_is_restored(make: Make) -> None:
    checkpoints = make()
    model = checkpoints.accelerator._models[0]
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    path = save(checkpoints, 3)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    state = TrainState()
    checkpoints.load(path, state, PLAN)
    assert state.step == 3
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_every_file_is_in_the_manifest(make: Make) -> None:
    path = save(make(), 1)
    verify(path)
    assert {"model.safetensors", "optimizer.bin", "state.json"} <= {
        file.name for file in path.iterdir()
    }


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_any_damage_is_found(make: Make, name: str, damage: str) -> None:
    path = save(make(), 1)
    file = path / name
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content if damage == "flip" else content[:-1])
    with pytest.raises(InputError, match=name):
        make().load(path, TrainState(), PLAN)


def test_the_last_ones_and_the_best_stay(make: Make) -> None:
    checkpoints = make(keep=2)
    for step in (1, 2, 3, 4, 5):
        save(checkpoints, step, best=2)
    assert [path.name[-1] for path in checkpoints.all()] == ["2", "4", "5"]


def test_the_newest_complete_one_is_found(make: Make) -> None:
    checkpoints = make()
    assert checkpoints.find(None) is None
    assert checkpoints.find("auto") is None
    save(checkpoints, 1)
    newest = save(checkpoints, 2)
    half = checkpoints.folder / "step-00000003"
    half.mkdir()
    (checkpoints.folder / ".pending-step-00000004").mkdir()
    assert checkpoints.find("auto") == newest


def test_a_path_without_a_checkpoint_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint there"):
        make().find(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="held the best model"):
        make().at(7)


def test_another_plan_is_refused_by_name(make: Make) -> None:
    path = save(make(), 1)
    with pytest.raises(InputError, match="seed=1, now it is 2"):
        make().load(path, TrainState(), PLAN | {"seed": 2})


def test_an_older_resume_sets_the_future_aside(make: Make) -> None:
    checkpoints = make(keep=5)
    for step in (1, 2, 3):
        save(checkpoints, step)
    checkpoints.set_aside(newer_than=1)
    assert [path.name for path in checkpoints.all()] == ["step-00000001"]
    assert len(list(checkpoints.folder.glob("replaced-*"))) == 2


def test_a_write_that_fails_leaves_nothing_and_the_old_one_whole(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = make()
    old = save(checkpoints, 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.checkpoint.write_json", full)
    with pytest.raises(OSError, match="No space"):
        save(checkpoints, 2)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [old.name]
    verify(old)


def test_saving_the_same_update_again_replaces_it(make: Make) -> None:
    checkpoints = make()
    save(checkpoints, 1)
    path = save(checkpoints, 1)
    assert (path / MANIFEST).is_file()
    assert checkpoints.all() == [path]


@pytest.mark.parametrize("key", ["keep", "save_every"])
def test_values_that_could_not_work_are_refused(key: str) -> None:
    with pytest.raises(InputError, match=key):
        CheckpointConfig(**{key: 0})
