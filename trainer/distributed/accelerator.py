"""What to compute on, and how precisely."""

import ctypes
import os
import sys
import warnings

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import get_available_trackers

from data.errors import InputError
from eval.device import mixed_precision, on_cpu, set_up_cuda
from trainer.distributed.fsdp import refuse_others, refuse_plugins

# malloc.h's M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD: no allocation of its own for large tensors,
# nothing given back below 2 GB of free memory, and 256 MB more taken than asked for
MALLOC = ((-4, 0), (-1, 2**31 - 1), (-2, 2**28))


# the one buffer, of silence, is the same on all processes by itself
# (torch 2.13 warns of this name; 2.11 and Accelerate know no other)
warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
DDP = DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False)


def build_accelerator(
    *, precision: str, deterministic: bool, trackers: tuple[str, ...]
) -> Accelerator:
    """Make the Accelerator.

    Args:
        precision: auto, fp32, fp16 or bf16.
        deterministic: ask a GPU for the same bits every time. A CPU always gives them, at no price:
            without it the backward of the decoder's positions differs from run to run.
        trackers: names that Accelerate knows; they begin later.

    Raises:
        InputError: fp16 on a CPU, accumulation set in the environment, a tracker that is not there,
            a way to run on several processes that the loop does not support.
    """
    set_up_cuda()  # first: mixed_precision() asks the GPU, which then reads its settings
    cpu, mixed = on_cpu(), mixed_precision(precision)
    _refuse_accumulation()
    _refuse_missing(trackers)
    refuse_plugins()
    if cpu:
        _keep_freed_memory()
    if cpu or deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
    accelerator = Accelerator(
        mixed_precision=mixed,
        cpu=cpu,
        kwargs_handlers=[DDP],
    )
    refuse_others(accelerator)
    return accelerator


def _refuse_accumulation() -> None:
    if os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1") != "1":
        raise InputError(
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS is set: it would scale the loss a second time; "
            "unset it, and set data.max_seconds_per_forward to cut updates into passes"
        )


def give_back_memory() -> None:
    """Give the kernel all memory that is free, on a Linux with glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _keep_freed_memory() -> None:
    """Have glibc keep what tensors free: the kernel would zero the same pages in every update.

    An eighth of a CPU's time went there (whisper-tiny, updates of 20 s). The peak stays the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        for option, value in MALLOC:
            mallopt(option, value)


def _refuse_missing(trackers: tuple[str, ...]) -> None:
    """Refuse trackers that Accelerate would leave out in silence."""
    installed = [kind.value for kind in get_available_trackers()]
    for name in trackers:
        if name not in installed:
            raise InputError(
                f"log.trackers: {name!r} is not installed, or not known to Accelerate: install its "
                f"package, or choose from {', '.join(installed)}"
            )
