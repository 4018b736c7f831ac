"""A CPU does not pretend to compute in fp16, and nobody scales the loss twice."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data.errors import InputError
from trainer.device import build_accelerator


def build(folder: Path, precision: str) -> str:
    """Return the precision that was chosen."""
    accelerator = build_accelerator(folder, precision=precision, deterministic=False, trackers=())
    return str(accelerator.mixed_precision)


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide a GPU, where there is one."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def test_fp16_on_a_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="precision=fp16 needs a GPU"):
        build(tmp_path, "fp16")


def test_accumulation_in_the_environment_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(InputError, match="ACCELERATE_GRADIENT_ACCUMULATION_STEPS"):
        build(tmp_path, "auto")


def test_auto_is_fp32_on_a_cpu_and_deterministic(tmp_path: Path) -> None:
    assert build(tmp_path, "auto") == "no"
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("name", ["wandb2", "comet_ml"])
def test_a_tracker_that_is_not_there_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"log\.trackers: '{name}'.*tensorboard"):
        build_accelerator(tmp_path, precision="auto", deterministic=False, trackers=(name,))


FAULTS = """
import resource, sys
from pathlib import Path
from trainer.device import build_accelerator
import torch
if sys.argv[1] == "ours":
    build_accelerator(Path(sys.argv[2]), precision="fp32", deterministic=False, trackers=())
kept, fewest = torch.zeros(10), 10**9
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    activations = [torch.ones(size * 100_000) for size in (1, 30, 4, 125, 9, 20)]
    gradients = [2 * each for each in activations]
    del activations
    kept = kept + 1
    del gradients
    fewest = min(fewest, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(fewest)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_that_tensors_freed_is_not_asked_for_again(tmp_path: Path) -> None:
    def faults(whose: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, whose, str(tmp_path)],
            env=os.environ | {"THP_MEM_ALLOC_ENABLE": "0"},
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout)

    assert faults("ours") < 1_000
    assert faults("theirs") > 12_000  # by itself glibc keeps none of more than 32 MB
