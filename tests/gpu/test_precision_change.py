"""A run goes on in another precision where that was accepted: fp16 alone has a loss scale."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
REPOSITORY = Path(__file__).resolve().parents[2]


def start(trainer: Any, run: Path, precision: str, steps: int) -> str:
    """Train up to an update on the GPU, and return what was printed."""
    arguments = trainer.arguments(
        run,
        f"--precision={precision}",
        f"--loop.max_steps={steps}",
        "--resume=auto",
        "--accept",
        "precision",
    )
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "trainer" / "main.py"), *arguments],
        env=os.environ | {"ACCELERATE_USE_CPU": "false"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def test_a_run_goes_from_bf16_to_fp16_and_back(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    checkpoints = run / "checkpoints"
    start(trainer, run, "bf16", 2)
    assert not (checkpoints / "step-00000002" / "scaler.pt").exists()
    told = start(trainer, run, "fp16", 4)
    assert "the loss scale starts again at 65,536" in told
    assert (checkpoints / "step-00000004" / "scaler.pt").is_file()
    assert "starts again" not in start(trainer, run, "fp16", 5)
    assert "its loss scale is not needed in this precision" in start(trainer, run, "bf16", 6)
    assert not (checkpoints / "step-00000006" / "scaler.pt").exists()
