"""Device and precision: Accelerate's settings, CUDA kernels, memory, out-of-memory errors."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from accelerate import Accelerator

from data.errors import InputError

Precision = Literal["auto", "fp32", "fp16", "bf16"]
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the current name, and the old one


# substrings of out-of-memory messages of PyTorch, CUDA, cuBLAS (also when it creates its handle),
# cuDNN (also when no convolution's workspace fits), cuFFT and the CPU's allocator
OUT_OF_MEMORY = (
    "out of memory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "unable to find an engine to execute this computation",
    "can't allocate memory",
)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of any library means that memory ran out."""
    message = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(s in message for s in OUT_OF_MEMORY)


def out_of_memory(error: RuntimeError) -> str:
    """Return the first line of an out-of-memory error.

    Raises:
        RuntimeError: the error itself, if it is not an out-of-memory error.
    """
    if not is_out_of_memory(error):
        raise error
    return str(error).strip().split("\n")[0]


def free_memory(device: torch.device) -> int:
    """Return the bytes of a GPU that can be allocated, with those that PyTorch's allocator caches.

    A limit that torch.cuda.set_per_process_memory_fraction() sets is kept.
    """
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    allowed = round(torch.cuda.get_per_process_memory_fraction(device) * total) - reserved
    return min(free, allowed) + reserved - torch.cuda.memory_allocated(device)


@contextmanager
def explain_out_of_memory(what: str) -> Iterator[None]:
    """Turn an out-of-memory error into an InputError.

    Args:
        what: what needed the memory, and which knob to change; follows "out of memory".

    Raises:
        InputError: memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        raise InputError(f"out of memory {what} ({out_of_memory(error)})") from error


def on_cpu() -> bool:
    """Return whether to compute on the CPU: no GPU, or ACCELERATE_USE_CPU=true."""
    requested = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    return requested or not torch.cuda.is_available()


def mixed_precision(precision: str) -> str:
    """Return Accelerate's name of a precision: auto is bf16 on GPUs that support it, else fp16.

    Raises:
        InputError: fp16 on a CPU.
    """
    cpu = on_cpu()
    if cpu and precision == "fp16":
        raise InputError(
            "precision=fp16 needs a GPU: on a CPU, Accelerate would silently compute in fp32; "
            "set precision to auto, fp32 or bf16"
        )
    if precision == "auto":
        if cpu:
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "no" if precision == "fp32" else precision


def set_up_cuda() -> None:
    """Set attention kernels and memory allocator, the same for training and evaluation.

    Call it before the first CUDA allocation. A PYTORCH_ALLOC_CONF that is set is kept; cuDNN
    attention is always disabled. Neither has been measured with Whisper yet: the steps speed-… and
    allocator-… of tests/benchmark/gpu/run.py run with both choices (docs/gpu.md).
    """
    # On Hopper and Blackwell GPUs PyTorch prefers cuDNN attention, which builds a plan for each new
    # shape: 0.44 s forward and 0.55 s backward are reported (FunASR issue 3704, a B200), while a
    # pass takes 0.03 s. An epoch has hundreds of shapes, and each decoding step has a new one.
    # Flash and memory-efficient attention build no plans
    torch.backends.cuda.enable_cudnn_sdp(False)
    # passes of varying size fragment segments of fixed size; expandable segments do not fragment
    if not any(name in os.environ for name in ALLOCATOR):
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"


def build_evaluation_accelerator(precision: str) -> Accelerator:
    """Build the Accelerator of an evaluation.

    Args:
        precision: auto, fp32, fp16 or bf16.

    Raises:
        InputError: fp16 on a CPU.
    """
    set_up_cuda()
    return Accelerator(mixed_precision=mixed_precision(precision), cpu=on_cpu())


def capture_graph(work: Callable[[], None], pool: Any) -> torch.cuda.CUDAGraph:
    """Capture a CUDA graph of what some work launches, without running it.

    Args:
        work: reads and writes the same memory each time.
        pool: memory that graphs share: torch.cuda.graph_pool_handle().

    Raises:
        RuntimeError: it cannot be captured, or memory ran out.
    """
    graph = torch.cuda.CUDAGraph()
    # another thread may pin memory meanwhile: only this one must not
    capturing = torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local")
    try:
        # a capture that fails leaves its stream as the current one
        with torch.cuda.stream(torch.cuda.current_stream()), capturing:
            work()
    except RuntimeError as error:
        # where work() fails, ending the capture may fail too, which would hide the cause
        raise error.__context__ or error from None
    return graph
