"""Each phase of an update has one time: on a GPU that of its kernels, else the host's."""

import time
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent
from torch.profiler import profile, record_function

from trainer.metrics.phase_time import PHASES, phase_milliseconds

MAIN, AUTOGRAD = 1, 2  # threads
STREAM, OTHER_STREAM = 7, 20


def event(name: str, start: float, end: float, **more: Any) -> FunctionEvent:
    """Return an event of the host's main thread, as the profiler makes them on a GPU.

    Args:
        name: of the event.
        start: milliseconds.
        end: milliseconds.
        more: what else FunctionEvent takes.
    """
    given = {"id": 0, "thread": MAIN, "use_device": "cuda", "stack": []} | more
    return FunctionEvent(name=name, start_us=1000 * start, end_us=1000 * end, **given)


def phase(name: str, start: float, end: float, number: int) -> FunctionEvent:
    """Return a range of record_function: its id is of the same numbers as those of launches."""
    return event(name, start, end, id=number, is_user_annotation=True)


def annotation(name: str, start: float, end: float) -> FunctionEvent:
    """Return the profiler's GPU annotation of a range."""
    given = {"device_type": DeviceType.CUDA, "thread": STREAM, "is_user_annotation": True}
    return event(name, start, end, **given)


def launched(
    number: int, at: float, start: float, end: float, thread: int = MAIN, stream: int = STREAM
) -> list[FunctionEvent]:
    """Return a launch on the host and its kernel on the GPU."""
    return [
        event("cudaLaunchKernel", at, at + 0.01, id=number, thread=thread),
        event("gemm", start, end, id=number, thread=stream, device_type=DeviceType.CUDA),
    ]


# the host runs ahead of the GPU, and waits for it before its second update
UPDATE = [
    phase("data wait", 0, 2, 1),
    *launched(10, 1.9, 2, 2.5),  # a batch goes to the GPU
    phase("forward", 2, 4, 2),
    *launched(1, 2.1, 3, 7),
    *launched(2, 3.9, 8, 13),
    annotation("forward", 3, 13),
    phase("backward", 4, 7, 3),
    *launched(3, 4.1, 13, 14),
    annotation("backward", 13, 14),  # without what autograd's thread launches
    *launched(4, 5.0, 14, 25, thread=AUTOGRAD),
    *launched(5, 6.9, 20, 28, thread=AUTOGRAD, stream=OTHER_STREAM),
    phase("optimizer", 7, 8, 4),
    *launched(6, 7.5, 28, 33),
    annotation("optimizer", 28, 33),
    *launched(11, 8.5, 33, 34),  # between two phases
    phase("data wait", 9, 40, 5),
    phase("forward", 40, 42, 6),
    *launched(7, 41, 42, 44),
]


def test_on_a_gpu_a_phase_lasts_from_its_first_kernel_to_its_last_whoever_launched_them() -> None:
    found = phase_milliseconds(UPDATE)
    assert found["forward"] == pytest.approx((13 - 3) + (44 - 42))
    assert found["backward"] == pytest.approx(28 - 13)
    assert found["optimizer"] == pytest.approx(33 - 28)


def test_waiting_for_data_counts_where_the_gpu_was_in_no_other_phase() -> None:
    assert phase_milliseconds(UPDATE)["data wait"] == pytest.approx(2 + (40 - 33))


def test_the_phases_of_a_gpu_do_not_add_up_to_more_than_passed() -> None:
    assert sum(phase_milliseconds(UPDATE).values()) <= 44


def test_two_entries_of_one_name_in_the_profilers_averages_are_not_two_times() -> None:
    events = EventList(UPDATE, use_device="cuda")
    events._build_tree()
    kinds = [each.device_type for each in events.key_averages() if each.key == "backward"]
    assert set(kinds) == {DeviceType.CPU, DeviceType.CUDA}
    bare = [each for each in UPDATE if each.name != "backward" or each.id]
    assert phase_milliseconds(bare) == phase_milliseconds(UPDATE)


def test_without_a_gpu_a_phase_lasts_as_long_as_its_range() -> None:
    with profile(acc_events=True) as profiler:
        for _ in range(2):
            with record_function("data wait"):
                time.sleep(0.03)
            with record_function("forward"):
                torch.ones(10).sum()
                time.sleep(0.02)
    found = phase_milliseconds(profiler.events() or [])
    assert set(found) == set(PHASES)
    assert 60 <= found["data wait"] < 120
    assert 40 <= found["forward"] < 100
    assert found["backward"] == found["optimizer"] == 0
