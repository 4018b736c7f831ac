"""Time of each phase of an update, from the events of torch's profiler."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.table import Table
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

WAIT = "data wait"
# names of record_function ranges
PHASES = (WAIT, "forward", "backward", "all-reduce", "optimizer")
# of NCCL's kernels, and of gloo's operations, which run in threads of their own
NCCL_PREFIX, GLOO_PREFIX = "nccl", "gloo:"
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
    phases = _phases(list(events))
    busy = [span for *_, span in phases if span is not None]
    total = dict.fromkeys(PHASES, 0.0)
    for name, (start, end), span in phases:
        microseconds = span[1] - span[0] if span else end - start - _overlap((start, end), busy)
        total[name] += microseconds / 1000
    return total


def communication_milliseconds(events: Iterable[FunctionEvent]) -> dict[str, float]:
    """Return the time of each phase in which a collective runs, or waits for other processes.

    Args:
        events: from `profiler.events()`.
    """
    events = list(events)
    kernels = [e for e in events if e.device_type != DeviceType.CPU and not e.is_user_annotation]
    nccl = [event for event in kernels if event.name.startswith(NCCL_PREFIX)]
    gloo = [event for event in events if event.name.startswith(GLOO_PREFIX)]
    collectives = _merged((e.time_range.start, e.time_range.end) for e in nccl or gloo)
    total = dict.fromkeys(PHASES, 0.0)
    for name, host, device in _phases(events):
        if name != WAIT:
            total[name] += _overlap(device or host, collectives) / 1000
    return total


def phase_table(
    phases: dict[str, float],
    communication: dict[str, float],
    worker_seconds: Counter[str],
    updates: int,
) -> Table:
    """Return a table of the time of each phase of an update, and of the workers meanwhile.

    Args:
        phases: milliseconds of all traced updates, by phase.
        communication: the part of it in which a collective runs.
        worker_seconds: of all traced updates, by stage.
        updates: number of traced updates.
    """
    total = sum(phases.values()) or 1.0
    columns = ("phase", "ms per update", "share", "communication")
    table = Table(*columns, title=f"time of {updates} updates by phase")
    for name, time in phases.items():
        in_it = f"{communication[name] / updates:.1f}" if communication[name] else ""
        table.add_row(name, f"{time / updates:.1f}", f"{time / total:.1%}", in_it)
    if among := sum(communication.values()):
        table.add_row("communication in all", f"{among / updates:.1f}", f"{among / total:.1%}")
    for name, seconds in worker_seconds.items():
        table.add_row(f"{name}, in the workers", f"{1000 * seconds / updates:.1f}", "in parallel")
    return table


def _phases(events: Sequence[FunctionEvent]) -> list[tuple[str, Span, Span | None]]:
    """Return name, range on the host, and time span on a GPU of all phases, by time."""
    host = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in events
        if event.device_type == DeviceType.CPU and event.name in PHASES
    )
    device = _device_spans(events, [(start, end) for start, end, _ in host])
    return [
        (name, (start, end), None if name == WAIT else span)
        for (start, end, name), span in zip(host, device, strict=True)
    ]


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


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Return disjoint spans that cover the same time."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
