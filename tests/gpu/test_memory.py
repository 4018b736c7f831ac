"""Where a pass does not fit in the GPU's memory the run goes on with smaller ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gpu.model import fresh_accelerator
from gpu.rows import record, smoke

from data.batch import Shape
from eval.whisper import load_whisper
from trainer.distributed.engine import Engine
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig, build_optimizer
from trainer.out_of_memory import try_largest_pass

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

CLIPS = 24 if smoke() else 64  # an update, in one pass
ONE_PASS = (
    f"--data.update_clips={CLIPS}",
    "--data.max_padding=9",
    "--data.max_seconds_per_forward=5000",
    "--data.buckets=1",  # every update has clips of all lengths: their passes are alike
    "--data.token_buckets=1",
    "--data.fixed_shapes=False",
)
UPDATES = "--loop.max_steps=6"
# what libraries say where the device has no memory left for them
FAILURES = (
    "CUDA out of memory. Tried to allocate 20.00 MiB.",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cuFFT error: CUFFT_ALLOC_FAILED",
)


@pytest.fixture(scope="module")
def whole(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Return the losses of a run with all the memory that it wants."""
    run = tmp_path_factory.mktemp("whole") / "run"
    runs(run, *ONE_PASS, UPDATES, "--precision=fp32")
    return runs.losses(run)


def fraction(runs: Any, device: torch.device) -> float:
    """Return a share of memory in which a pass of a quarter fits, and a whole one does not."""
    accelerator = fresh_accelerator(device, "no")
    module = prepare_training(load_whisper(str(runs.model)), ModelConfig())
    model, optimizer = accelerator.prepare(module, build_optimizer(module, OptimConfig()))
    peaks = []
    for rows in (CLIPS // 4, CLIPS):
        assert (
            try_largest_pass(Engine(accelerator, model, optimizer), Shape(rows, 1104, 48)) is None
        )
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        assert (
            try_largest_pass(Engine(accelerator, model, optimizer), Shape(rows, 1104, 48)) is None
        )
        peaks.append(torch.cuda.max_memory_reserved())
    limit = 0.6 * peaks[0] + 0.4 * peaks[1]
    record("memory", quarter_gb=peaks[0] / 1e9, whole_gb=peaks[1] / 1e9, limit_gb=limit / 1e9)
    return limit / torch.cuda.get_device_properties(device).total_memory


@pytest.mark.parametrize("after", [0, 4], ids=["from the start", "in the middle"])
def test_a_run_without_enough_memory_makes_the_same_updates_in_smaller_passes(
    after: int, gpu: torch.device, runs: Any, whole: list[float], tmp_path: Path
) -> None:
    share = fraction(runs, gpu)
    run = tmp_path / "run"
    told = runs(run, *ONE_PASS, UPDATES, "--precision=fp32", fraction=share, after=after)
    times = told.count("out of memory in a forward pass of")
    found = runs.losses(run)
    off = max(abs(a - b) / b for a, b in zip(found, whole, strict=True))
    record(f"limited after pass {after}", times_cut=times, largest_difference=off)
    assert times, "the run should have said that a pass did not fit; it did not"
    assert off < 0.01, f"losses should be those of a whole run: {found}, and {whole}"


def test_every_kind_of_allocation_failure_is_met_with_smaller_passes(
    device: torch.device, runs: Any, whole: list[float], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    told = runs(run, *ONE_PASS, UPDATES, "--precision=fp32", fail=FAILURES)
    times = told.count("out of memory in a forward pass of")
    found = runs.losses(run)
    record("simulated failures", kinds=len(FAILURES), times_cut=times)
    assert times == len(FAILURES), f"each failure should cut passes once, found {times}"
    assert found == pytest.approx(whole, rel=0.01)
