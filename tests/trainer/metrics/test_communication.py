"""The profile of several processes says how much of an update communication takes."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch.autograd import DeviceType

from data.atomic_files import read_jsonl
from tests.trainer.metrics.test_phase_time import event, launched, phase
from trainer.metrics.phase_time import communication_milliseconds, phase_milliseconds


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_on_two_processes_it_is_in_the_table_and_in_metrics_jsonl(
    trainer: Any, tmp_path: Path, precision: str
) -> None:
    run = tmp_path / "run"
    knobs = ("--profile", "--loop.max_steps=9", f"--precision={precision}")
    output = trainer(run, *knobs, processes=2).output
    assert "communication in all" in output
    (row,) = (r for r in read_jsonl(run / "metrics.jsonl") if "profile/communication" in r)
    assert row["step"] == 8
    phases = {k: v for k, v in row.items() if k not in ("step", "profile/communication")}
    assert sum(phases.values()) == pytest.approx(1.0)
    assert 0 < row["profile/communication"] < 1
    # with DDP it is a part of the backward pass, with half-precision weights a phase of its own
    alone = row["profile/all_reduce"]
    assert alone < 0.01 if precision == "fp32" else alone >= 0.9 * row["profile/communication"]
    for name in ("trace.json", "trace1.json"):  # one of each process
        assert json.loads((run / "profile" / name).read_text(encoding="utf-8"))["traceEvents"]


def kernel(number: int, at: float, start: float, end: float) -> list[Any]:
    """Return the launch of an NCCL kernel, and the kernel, on a stream of its own."""
    launch, _ = launched(number, at, start, end)
    name = "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
    return [launch, event(name, start, end, id=number, thread=20, device_type=DeviceType.CUDA)]


def test_on_a_gpu_it_is_the_time_of_nccl_kernels_also_beside_others() -> None:
    events = [
        phase("backward", 0, 4, 1),
        *launched(2, 1, 2, 12),
        *kernel(3, 2, 6, 9),  # during the backward pass
        *kernel(4, 3, 8, 10),  # they may overlap
        phase("all-reduce", 4, 5, 5),
        *kernel(6, 4.5, 12, 15),
        event("gloo:all_reduce", 5, 6),  # the sums of an update, on the CPU
    ]
    found = communication_milliseconds(events)
    assert found["backward"] == pytest.approx(10 - 6)
    assert found["all-reduce"] == pytest.approx(15 - 12)
    assert phase_milliseconds(events)["all-reduce"] == pytest.approx(15 - 12)
