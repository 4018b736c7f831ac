"""Time of each phase of an update, from the events of torch's profiler."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

WAIT = "data wait"
PHASES = (WAIT, "forward", "backward", "optimizer")  # names of record_function ranges
LAUNCH_PREFIX = "cu"  # of cudaLaunchKernel, cuLaunchKernelEx, cudaMemcpyAsync and others

Span = tuple[float, float]  # microseconds, start and end


def phase_milliseconds(events: Iterable[FunctionEvent]) -> dict[str, float]:
    """Return the total time of each phase.

    On a GPU, a phase lasts from the start of its first kernel to the end of its last one, and data
    wait is the time outside of all other phases. On a CPU, it is the time of the record_function
    range.

    The profiler's own GPU annotation of a range is not used: it lacks the kernels of the backward
    pass, since autograd launches them in another thread
    (https://github.com/pytorch/kineto/issues/1022).

    Args:
        events: from `profiler.events()`.
    """
    events = list(events)
    host = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in events
        if event.device_type == DeviceType.CPU and event.name in PHASES
    )
    device = _device_spans(events, [(start, end) for start, end, _ in host])
    device = [None if name == WAIT else span for (*_, name), span in zip(host, device, strict=True)]
    busy = [span for span in device if span is not None]
    total = dict.fromkeys(PHASES, 0.0)
    for (start, end, name), span in zip(host, device, strict=True):
        microseconds = span[1] - span[0] if span else end - start - _overlap((start, end), busy)
        total[name] += microseconds / 1000
    return total


def _device_spans(events: Sequence[FunctionEvent], ranges: Sequence[Span]) -> list[Span | None]:
    """Return the GPU time span of the kernels that each range launched, from any thread.

    Args:
        events: of a profile.
        ranges: on the host, sorted.
    """
    launch_times = {
        event.id: event.time_range.start
        for event in events
        if event.device_type == DeviceType.CPU and event.name.startswith(LAUNCH_PREFIX)
    }
    starts = [start for start, _ in ranges]
    spans: list[Span | None] = [None] * len(ranges)
    for event in events:
        if event.device_type == DeviceType.CPU or event.is_user_annotation:
            continue
        launch = launch_times.get(event.id)  # a kernel and its launch share a correlation id
        index = -1 if launch is None else bisect_right(starts, launch) - 1
        if launch is None or index < 0 or launch > ranges[index][1]:
            continue
        span, kernel = spans[index], (event.time_range.start, event.time_range.end)
        spans[index] = (min(span[0], kernel[0]), max(span[1], kernel[1])) if span else kernel
    return spans


def _overlap(span: Span, others: Iterable[Span]) -> float:
    """Return the length of the part of a span that is in others, which must be disjoint."""
    return sum(max(0.0, min(span[1], end) - max(span[0], start)) for start, end in others)
