"""A run that is killed and goes on ends with the same bits as one that was not."""

import hashlib
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu.rows import record, smoke

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

UPDATES, EVERY, KILLED = (8, 3, 7) if smoke() else (60, 20, 50)


def sha256(run: Path) -> str:
    """Return the hash of a run's final weights."""
    return hashlib.sha256((run / "model/model.safetensors").read_bytes()).hexdigest()


def test_a_deterministic_run_that_was_killed_ends_with_the_same_weights(
    device: torch.device, runs: Any, tmp_path: Path
) -> None:
    extra = (
        "--deterministic=true",
        "--data.max_padding=9",  # one pass an update
        f"--loop.max_steps={UPDATES}",
        f"--checkpoint.save_every={EVERY}",
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    runs(whole, *extra)
    killed = runs.try_(cut, *extra, kill=KILLED, folder=str(cut / "checkpoints"))
    assert killed.returncode == -signal.SIGKILL, killed.stdout[-3000:]
    kept = sorted(path.name for path in (cut / "checkpoints").glob("step-*"))
    assert kept, "a checkpoint should have been whole when the run was killed, found none"
    runs(cut, *extra, "--resume=auto")
    hashes = {run.name: sha256(run)[:16] for run in (whole, cut)}
    record("killed and resumed", checkpoint=kept[-1], **hashes)
    assert hashes["cut"] == hashes["whole"], "the weights should be the same, found others"
