"""How long each phase of an update takes, by the events of torch's profiler."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

WAIT = "data wait"
PHASES = (WAIT, "forward", "backward", "optimizer")  # names of record_function ranges
LAUNCHES = "cu"  # cudaLaunchKernel, cuLaunchKernelEx, cudaMemcpyAsync and others

Span = tuple[float, float]  # microseconds, start and end


def phase_milliseconds(events: Iterable[FunctionEvent]) -> dict[str, float]:
    """Return the time of each phase, in all.

    On a GPU a phase lasts from the start of the first kernel that it launched to the end of the
    last one, and the wait for data counts where the GPU was in none of the other phases. Without a
    GPU it is the time of the record_function range.

    The profiler's own GPU annotation of a range is not used: it lacks the kernels of the backward
    pass, as autograd launches them in another thread (https://github.com/pytorch/kineto/issues/1022).

    Args:
        events: of a profile, from `profiler.events()`.
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
        took = span[1] - span[0] if span else end - start - _overlap((start, end), busy)
        total[name] += took / 1000
    return total


def _device_spans(events: Sequence[FunctionEvent], ranges: Sequence[Span]) -> list[Span | None]:
    """Return when the GPU did what was launched in each range, in whichever thread.

    Args:
        events: of a profile.
        ranges: on the host, in order.
    """
    launched = {
        event.id: event.time_range.start
        for event in events
        if event.device_type == DeviceType.CPU and event.name.startswith(LAUNCHES)
    }
    starts = [start for start, _ in ranges]
    spans: list[Span | None] = [None] * len(ranges)
    for event in events:
        if event.device_type == DeviceType.CPU or event.is_user_annotation:
            continue
        at = launched.get(event.id)  # the launch and what it launched have one correlation id
        number = -1 if at is None else bisect_right(starts, at) - 1
        if at is None or number < 0 or at > ranges[number][1]:
            continue
        span, own = spans[number], (event.time_range.start, event.time_range.end)
        spans[number] = (min(span[0], own[0]), max(span[1], own[1])) if span else own
    return spans


def _overlap(span: Span, others: Iterable[Span]) -> float:
    """Return how much of a span lies in others, which do not overlap."""
    return sum(max(0.0, min(span[1], end) - max(span[0], start)) for start, end in others)
