"""A GPU is set up before PyTorch reads how."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gpu.rows import record

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINING = """
from trainer.distributed.accelerator import build_accelerator
build_accelerator(precision="auto", deterministic=False, trackers=())
"""
EVALUATION = """
from eval.device import build_evaluation_accelerator
build_evaluation_accelerator("auto")
"""
SETTINGS = """
import torch
torch.ones(8, device="cuda")
print(torch.cuda.memory._snapshot()["allocator_settings"]["expandable_segments"])
print(torch.backends.cuda.cudnn_sdp_enabled())
"""


@pytest.mark.parametrize("program", [TRAINING, EVALUATION], ids=["training", "evaluation"])
def test_segments_are_expandable_and_cudnn_attention_is_off(
    program: str, gpu: torch.device
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import data\n{program}\n{SETTINGS}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    segments, cudnn = done.stdout.split()[-2:]
    record("settings", expandable_segments=segments, cudnn_attention=cudnn)
    assert (segments, cudnn) == ("True", "False")
