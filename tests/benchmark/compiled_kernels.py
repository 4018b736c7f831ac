"""Count the kernels of a forward and backward pass whose layers are compiled, on a CPU.

    python -m tests.benchmark.compiled_kernels --out=kernels.json

The model is that of tests.benchmark.operations. A GPU's compiler may fuse in another way.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from data.atomic_files import write_json
from data.batch import target_positions
from data.config_parser import parse_dataclass
from data.errors import plain_errors
from tests.benchmark.operations import small_module
from trainer.half_precision.compiled import compile_layers
from trainer.half_precision.forward import HalfForward

FUSED = "cpp_fused"  # in the names of kernels that inductor generates for a CPU
KINDS: dict[str, tuple[str, ...]] = {
    "attention": ("aten::_scaled_dot_product",),
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::convolution"),
    "additions to the gradient": ("aten::add_",),
    "stacks and concatenations": ("aten::cat",),
}
# start no kernel: views, and memory
NOTHING = ("aten::empty", "aten::resize_", "aten::resolve_", "aten::promote_types", "aten::lift_")


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Count the kernels of a compiled pass."""

    out: str | None = None  # JSON
    layers: int = 12  # of the encoder, and of the decoder; whisper-small has 12


def count_kernels(run: Callable[[], Any]) -> Counter[str]:
    """Run a function, and count the kernels that it starts by their kind."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    roots = [event for event in profiler.events() if event.cpu_parent is None]
    return Counter(kind for root in roots for kind in _kernels(root))


def _kernels(event: Any) -> Iterator[str]:
    """Yield the kinds of the kernels that an event of the profiler starts."""
    for kind, names in KINDS.items():
        if event.name.startswith(names):
            yield kind
            return
    inner = [kind for child in event.cpu_children for kind in _kernels(child)]
    yield from inner
    if FUSED in event.name:
        yield "fused by the compiler"
    elif not inner and event.name.startswith("aten::") and not _starts_nothing(event.name):
        yield f"others: {event.name.removeprefix('aten::')}"


def _starts_nothing(name: str) -> bool:
    """Return whether an operation is a view, or only allocates memory."""
    if name.startswith(NOTHING):
        return True
    packet = getattr(torch.ops.aten, name.removeprefix("aten::"))
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    return any(overload.is_view for overload in overloads) or name == "aten::_unsafe_view"


def compiled_pass(layers: int) -> tuple[Callable[[], None], float]:
    """Return a function that makes a pass with compiled layers, and the seconds to compile."""
    module = small_module(silence=True, layers=layers)
    half = module.half_forward = HalfForward(module.whisper, torch.bfloat16, torch.device("cpu"))
    started = time.perf_counter()
    compile_layers(half, 80, module.silence, print)
    seconds = time.perf_counter() - started
    half.weights.begin_update()
    features, ids = torch.randn(4, 80, 496), torch.randint(5, 300, (4, 24))
    targets = target_positions(ids)

    def run() -> None:
        module(features, ids, ids, targets=targets).sum().backward()

    run()
    return run, seconds


def main() -> None:
    """Count, show, and write."""
    with plain_errors():
        command = parse_dataclass(Command, sys.argv[1:])
        torch._inductor.config.cpp.enable_kernel_profile = True  # names kernels in profiles
        run, seconds = compiled_pass(command.layers)
        counts = count_kernels(run)
        table = Table("kernels", "count")
        for kind, count in counts.most_common():
            table.add_row(kind, str(count))
        table.add_row("all", str(counts.total()), style="bold")
        Console().print(table)
        if command.out is not None:
            result = {"layers": command.layers, "compile_seconds": round(seconds, 1), **counts}
            write_json(Path(command.out), {**result, "all": counts.total()})


if __name__ == "__main__":
    main()
