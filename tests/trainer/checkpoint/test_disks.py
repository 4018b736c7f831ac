"""Disks that flip bits, lose files, and run full: a whole checkpoint is found, and nothing else is.

`pytest -m slow tests/trainer/checkpoint/test_disks.py -s` makes the large campaigns and prints
their tables.
"""

import errno
import json
import os
import random
import shutil
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from data.errors import InputError
from tests.campaign import SETTINGS, Losses, counts, digests
from tests.sabotage import choose_at_random, damage
from trainer.checkpoint.rotation import CheckpointConfig, CheckpointRotation, read_progress, step_of
from trainer.checkpoint.snapshot import Snapshot
from trainer.publish.export import exported_step


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a shelf with three checkpoints, small and with the files that real ones have."""
    rotation = CheckpointRotation(
        tmp_path_factory.mktemp("shelf") / "checkpoints", CheckpointConfig(keep=3)
    )
    for number in (1, 2, 3):
        pending = rotation.pending_path(number)
        pending.mkdir(parents=True)
        (pending / "model.safetensors").write_bytes(random.Random(number).randbytes(5000))
        (pending / "optimizer.bin").write_bytes(random.Random(-number).randbytes(9000))
        rotation.commit(pending, {"state": {"step": number, "best_step": 0}, "shape": {}})
    return rotation.folder


def corrupt(three: Path, tmp_path: Path, trials: int) -> Counter[str]:
    """Damage the newest of three checkpoints again and again; the second is taken each time."""
    found: Counter[str] = Counter()
    for trial in range(trials):
        folder = Path(shutil.copytree(three, tmp_path / f"{trial}"))
        how = damage(folder / "step-00000003", folder / "step-00000002", random.Random(trial))
        told: list[str] = []
        taken = CheckpointRotation(folder, CheckpointConfig()).newest(told.append)
        assert taken is not None
        # a flipped bit may leave the manifest's meaning as it was
        if step_of(taken) == 3:
            assert json.loads((taken / "manifest.json").read_text()) == json.loads(
                (three / taken.name / "manifest.json").read_text()
            ), (trial, how)
            found["without meaning"] += 1
        else:
            assert step_of(taken) == 2, (trial, how)
            assert "step-00000003 is skipped" in told[0]
            found[how] += 1
        shutil.rmtree(folder)
    return found


def test_fifty_corruptions_are_found(three: Path, tmp_path: Path) -> None:
    assert corrupt(three, tmp_path, 50).total() == 50


@pytest.mark.slow
def test_five_hundred_corruptions_are_found(three: Path, tmp_path: Path) -> None:
    found = corrupt(three, tmp_path, 500)
    Console().print(counts("500 corruptions of the newest checkpoint", found))


def test_checkpoints_of_which_none_is_whole_are_not_taken_for_a_fresh_start(
    trainer: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    trainer(run, "--loop.max_steps=1")
    (run / "checkpoints" / "step-00000001" / "model.safetensors").unlink()
    done = trainer(run, "--resume=auto", check=False)
    assert done.returncode == 2
    assert "no checkpoint is complete" in done.output
    with pytest.raises(InputError):
        CheckpointRotation(run / "checkpoints", CheckpointConfig()).newest(print)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_runs_full_costs_checkpoints_and_not_the_run(
    wide_trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=75m", "tmpfs", str(disk)], check=True)
    try:
        run, whole = disk / "run", tmp_path / "whole"
        wide_trainer(whole, *SETTINGS)
        full = wide_trainer(run, *SETTINGS, "--checkpoint.keep=9", check=False)
        assert "NO CHECKPOINT" in full.output
        assert full.returncode == 2
        assert "Traceback" not in full.output
        rotation = CheckpointRotation(run / "checkpoints", CheckpointConfig())
        assert rotation.newest(print) == rotation.all()[-1]  # what is there is whole
        for path in rotation.all()[:-1]:
            shutil.rmtree(path)  # a person frees some space
        wide_trainer(run, *SETTINGS)
        assert losses(run) == losses(whole)
        assert digests(run) == digests(whole)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def full_now_and_then(seed: int) -> None:
    """Have the disk refuse weights of checkpoints, their states and exported models, at random."""
    import trainer.checkpoint.rotation
    import trainer.checkpoint.writer
    import trainer.validation

    choose_at_random(seed)
    trainer.checkpoint.writer.RETRY_SECONDS = ()
    for owner, name in (
        (Snapshot, "write"),
        (trainer.checkpoint.rotation, "hardlink_tree"),
        (trainer.validation, "export"),
    ):
        refuse_at_random(owner, name, random.Random(f"{seed} {name}"))


def refuse_at_random(owner: Any, name: str, rng: random.Random) -> None:
    """Have a function say, at two of five calls, that the disk is full."""
    function = getattr(owner, name)

    def refusing(*arguments: Any, **options: Any) -> Any:
        if rng.random() < 0.4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*arguments, **options)

    setattr(owner, name, refusing)


def fill_disks(trainer: Any, folder: Path, losses: Losses, seeds: range) -> Counter[str]:
    """Train on disks that are full now and then, and once more when they no longer are."""
    trainer(folder / "whole", *SETTINGS)
    found: Counter[str] = Counter()
    for seed in seeds:
        run = folder / f"{seed}"
        full = trainer(run, *SETTINGS, sabotage=partial(full_now_and_then, seed), check=False)
        assert full.returncode in (0, 2), full.output
        assert "Traceback" not in full.output
        assert losses(run) == losses(folder / "whole"), seed
        found |= {"runs": len(seeds)}
        found["checkpoints refused"] += full.output.count("NO CHECKPOINT")
        found["models refused"] += full.output.count("model of update")
        found["better, and not on the disk"] += full.output.count("is better, but its checkpoint")
        found["ended with status 2"] += full.returncode == 2
        trainer(run, *SETTINGS, sabotage=partial(choose_at_random, seed))
        newest = CheckpointRotation(run / "checkpoints", CheckpointConfig()).newest(print)
        assert newest is not None
        state = read_progress(newest)["state"]
        assert losses(run) == losses(folder / "whole"), seed
        assert (state["step"], state["evaluated_step"]) == (8, 8), seed
        assert exported_step(run / "model") == (state["best_step"] or 8), seed
        shutil.rmtree(run)
    return found


def test_disks_that_are_full_now_and_then_cost_no_update_and_no_best_model(
    trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    fill_disks(trainer, tmp_path, losses, range(9, 10))


@pytest.mark.slow
def test_fifty_disks_that_are_full_now_and_then(
    wide_trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    found = fill_disks(wide_trainer, tmp_path, losses, range(10, 60))
    Console().print(counts("disks that are full now and then", found))
    assert all(found.values())
