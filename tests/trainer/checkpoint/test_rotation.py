"""Checkpoints stand on a shelf: the newest whole one is found, and old ones go in time."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.errors import InputError
from trainer.checkpoint.rotation import CheckpointConfig, CheckpointRotation, step_of, verified

Put = Callable[..., Path]


@pytest.fixture
def rotation(tmp_path: Path) -> CheckpointRotation:
    """Return an empty shelf that keeps two."""
    return CheckpointRotation(tmp_path / "checkpoints", CheckpointConfig(keep=2))


@pytest.fixture
def put(rotation: CheckpointRotation) -> Put:
    """Return a function that publishes a checkpoint of an update."""

    def publish(step: int, best: int = 0, **more: Any) -> Path:
        pending = rotation.pending_path(step)
        pending.mkdir(parents=True)
        (pending / "weights").write_bytes(b"%d" % step)
        rotation.commit(pending, {"state": {"step": step, "best_step": best, **more}, "shape": {}})
        rotation.prune()
        return rotation.folder / f"step-{step:08d}"

    return publish


def steps(rotation: CheckpointRotation) -> list[int]:
    """Return the updates that stand on a shelf."""
    return [step_of(path) for path in rotation.all()]


def test_the_last_ones_and_the_best_stay(rotation: CheckpointRotation, put: Put) -> None:
    for step in (1, 2, 3, 4, 5):
        put(step, best=2 if step > 1 else 0)
    assert steps(rotation) == [2, 4, 5]


def test_an_old_checkpoint_that_cannot_be_read_hinders_no_new_one(
    rotation: CheckpointRotation, put: Put
) -> None:
    (put(1) / "state.json").unlink()
    began = time.monotonic()
    put(2)
    assert steps(rotation) == [1, 2]
    assert time.monotonic() - began < 10  # nobody waits for the file to appear


def test_every_mth_stays_for_good(tmp_path: Path, put: Put, rotation: CheckpointRotation) -> None:
    rotation.config = CheckpointConfig(keep=1, keep_every=3)
    for step in range(1, 9):
        put(step)
    assert steps(rotation) == [3, 6, 8]


def test_the_newest_whole_one_is_found_and_the_others_are_named(
    rotation: CheckpointRotation, put: Put
) -> None:
    told: list[str] = []
    assert rotation.newest(told.append) is None
    whole = put(1)
    (put(2) / "weights").write_bytes(b"x")
    (rotation.folder / ".pending-step-00000003").mkdir()
    (rotation.folder / "step-by-step").mkdir()  # not ours
    assert rotation.newest(told.append) == whole
    assert len(told) == 1
    assert "step-00000002 is skipped" in told[0]
    assert "weights: damaged" in told[0]
    assert (rotation.folder / ".pending-step-00000003").exists()  # a run may be writing it
    rotation.clean_up(whole)
    assert not (rotation.folder / ".pending-step-00000003").exists()


def test_nothing_is_loaded_where_none_is_whole(rotation: CheckpointRotation, put: Put) -> None:
    (put(1) / "weights").unlink()
    with pytest.raises(InputError, match="no checkpoint is complete"):
        rotation.newest(lambda _: None)


def test_a_checkpoint_under_anothers_name_is_refused(
    rotation: CheckpointRotation, put: Put
) -> None:
    put(1).rename(rotation.folder / "step-00000009")
    with pytest.raises(InputError, match="contains update 1"):
        verified(rotation.folder / "step-00000009")


def test_a_path_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        verified(tmp_path / "nothing")


def test_the_best_one_is_there_or_the_run_says_so(rotation: CheckpointRotation, put: Put) -> None:
    assert rotation.at(put(3) and 3).name == "step-00000003"
    with pytest.raises(InputError, match="step-00000007: there is no such checkpoint"):
        rotation.at(7)


def test_an_older_resume_sets_the_future_aside(rotation: CheckpointRotation, put: Put) -> None:
    put(1), put(2)
    (put(3, best=1) / "manifest.json").unlink()  # a damaged one too
    rotation.set_aside(newer_than=1)
    assert steps(rotation) == [1]
    assert len(list(rotation.folder.glob("replaced-*"))) == 2


def test_the_same_update_again_takes_the_place_of_the_first(
    rotation: CheckpointRotation, put: Put
) -> None:
    put(1, evaluated_step=0)
    path = put(1, evaluated_step=1)
    assert rotation.all() == [path]
    verified(path)


def test_a_crash_between_two_of_one_update_leaves_the_older(
    rotation: CheckpointRotation, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(1)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.checkpoint.rotation.move", die)
    with pytest.raises(KeyboardInterrupt):
        put(1)
    found = rotation.newest(lambda _: None)
    assert found is not None
    assert found.name == "step-00000001-older"
    monkeypatch.undo()
    put(2)
    put(3)
    assert [path.name for path in rotation.all()] == ["step-00000002", "step-00000003"]


def test_a_crash_before_the_older_of_two_was_deleted_is_made_up_for(
    rotation: CheckpointRotation, put: Put
) -> None:
    path = put(1, evaluated_step=1)
    shutil.copytree(path, path.with_name("step-00000001-older"))
    assert rotation.newest(lambda _: None) == path
    rotation.clean_up(path)
    assert rotation.all() == [path]


def test_a_checkpoint_can_be_moved(put: Put, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(put(4), tmp_path / "mine"))
    assert verified(elsewhere) == elsewhere


@pytest.mark.parametrize("key", ["keep", "save_every", "keep_every"])
def test_values_that_could_not_work_are_refused(key: str) -> None:
    with pytest.raises(InputError, match=key):
        CheckpointConfig(**{key: 0})
