"""fp16 on a CPU is refused, and so are settings that would scale the loss twice."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from data.errors import InputError
from trainer.distributed.accelerator import build_accelerator


def build(precision: str) -> str:
    """Return the precision that was chosen."""
    accelerator = build_accelerator(precision=precision, deterministic=False, trackers=())
    return str(accelerator.mixed_precision)


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide a GPU, where there is one."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(InputError, match="precision=fp16 needs a GPU"):
        build("fp16")


def test_accumulation_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(InputError, match="ACCELERATE_GRADIENT_ACCUMULATION_STEPS"):
        build("auto")


def test_auto_is_fp32_on_a_cpu_and_deterministic() -> None:
    assert build("auto") == "no"
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("name", ["wandb2", "comet_ml"])
def test_a_tracker_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(InputError, match=rf"log\.trackers: '{name}'.*tensorboard"):
        build_accelerator(precision="auto", deterministic=False, trackers=(name,))


FAULTS = """
import resource
from trainer.distributed.accelerator import build_accelerator
import torch

def fewest():  # page faults of eight updates' worth of tensors
    kept, found = torch.zeros(10), []
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        activations = [torch.ones(size * 100_000) for size in (1, 30, 4, 125, 9, 20)]
        gradients = [2 * each for each in activations]
        del activations
        kept = kept + 1
        del gradients
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(found)

print(fewest())
build_accelerator(precision="fp32", deterministic=False, trackers=())
print(fewest())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_that_tensors_freed_is_not_asked_for_again() -> None:
    # in a process from nothing: what was imported into a fork has changed glibc's limits
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=os.environ | {"THP_MEM_ALLOC_ENABLE": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = map(int, done.stdout.split())
    assert before > 12_000  # by itself glibc keeps none of more than 32 MB
    assert after < 1_000
