"""The device that computes: in which precision, and how PyTorch uses a GPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from accelerate import Accelerator

from data.errors import InputError

Precision = Literal["auto", "fp32", "fp16", "bf16"]
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # today's name, and the one before


# parts of out-of-memory messages: of PyTorch, CUDA, cuBLAS (also when it creates its handle), cuDNN
# (also when no convolution's workspace fits), cuFFT and the CPU's allocator
OUT_OF_MEMORY = (
    "out of memory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "unable to find an engine to execute this computation",
    "can't allocate memory",
)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether an error means that there was no memory, whoever asked for it."""
    told = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(sign in told for sign in OUT_OF_MEMORY)


def out_of_memory(error: RuntimeError) -> str:
    """Return the first line of an error that means that there was no memory.

    Raises:
        RuntimeError: the error itself, where it means something else.
    """
    if not is_out_of_memory(error):
        raise error
    return str(error).strip().split("\n")[0]


@contextmanager
def naming_out_of_memory(what: str) -> Iterator[None]:
    """Say in a sentence for what there was no memory, and what to set.

    Raises:
        InputError: there was none.
    """
    try:
        yield
    except RuntimeError as error:
        raise InputError(f"out of memory {what} ({out_of_memory(error)})") from error


def on_cpu() -> bool:
    """Tell whether a CPU computes: there is no GPU, or the launcher was told not to use it."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    return asked or not torch.cuda.is_available()


def mixed_precision(precision: str) -> str:
    """Return Accelerate's word for a precision; auto is bf16 where the GPU computes in it.

    Raises:
        InputError: fp16 on a CPU.
    """
    cpu = on_cpu()
    if cpu and precision == "fp16":
        raise InputError(
            "precision=fp16 needs a GPU: this machine would compute in fp32 and not say so; "
            "set precision to auto, fp32 or bf16"
        )
    if precision == "auto":
        if cpu:
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "no" if precision == "fp32" else precision


def set_up_cuda() -> None:
    """Choose the attention kernels and the memory allocator, for training and evaluation alike.

    Call it before the first CUDA allocation. PYTORCH_ALLOC_CONF is kept where it is set; cuDNN
    attention is always disabled. Neither was measured with Whisper yet: the steps speed-… and
    allocator-… of tests/benchmark/gpu/run.py run with both choices (docs/gpu.md).
    """
    # PyTorch tries cuDNN attention first on Hopper and Blackwell GPUs, where it builds a plan for
    # each new shape: 0.44 s forward and 0.55 s backward are reported (FunASR issue 3704, a B200),
    # and a pass takes 0.03 s. An epoch has hundreds of shapes, and each decoding step is a new one.
    # Flash and memory-efficient attention build no plans
    torch.backends.cuda.enable_cudnn_sdp(False)
    # passes of ever new sizes leave holes between segments of fixed size; expandable ones have none
    if not any(name in os.environ for name in ALLOCATOR):
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"


def build_evaluation_accelerator(precision: str) -> Accelerator:
    """Return an Accelerator for evaluation.

    Args:
        precision: auto, fp32, fp16 or bf16.

    Raises:
        InputError: fp16 on a CPU.
    """
    set_up_cuda()
    return Accelerator(mixed_precision=mixed_precision(precision), cpu=on_cpu())
