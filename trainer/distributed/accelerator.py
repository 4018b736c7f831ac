"""Build the Accelerator: device, precision, deterministic algorithms and trackers."""

import ctypes
import os
import sys
import warnings

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, parse_flag_from_env

from data.errors import InputError
from eval.device import mixed_precision, on_cpu, set_up_cuda
from trainer.distributed.fsdp import is_sharded

# malloc.h's M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD: no separate mapping for large tensors, no
# memory returned to the kernel while less than 2 GB is free, and allocation in steps of 256 MB
MALLOPT = ((-4, 0), (-1, 2**31 - 1), (-2, 2**28))

# the only buffer, the silence states, is computed alike on all processes; torch 2.13 deprecates the
# name broadcast_buffers, but 2.11 and Accelerate have no other
warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
DDP = DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False)
UNSUPPORTED = (
    "which this loop does not support: use --multi_gpu, or FSDP with fsdp_version 2 (as ZeRO-2: "
    "trainer/recipes/accelerate/fsdp2-zero2.yaml)"
)


def build_accelerator(
    *, precision: str, deterministic: bool, trackers: tuple[str, ...]
) -> Accelerator:
    """Build the Accelerator.

    Args:
        precision: auto, fp32, fp16 or bf16.
        deterministic: use deterministic algorithms on a GPU. A CPU always uses them, at no cost:
            otherwise the backward pass of the decoder's positions differs from run to run.
        trackers: names of Accelerate's trackers, which are started later.

    Raises:
        InputError: fp16 on a CPU, gradient accumulation set in the environment, a tracker that is
            not installed, or an unsupported distributed mode.
    """
    set_up_cuda()  # before mixed_precision(), which initializes CUDA
    cpu, mixed = on_cpu(), mixed_precision(precision)
    _refuse_gradient_accumulation()
    _refuse_missing_trackers(trackers)
    refuse_plugins()
    if cpu:
        _keep_freed_memory()
    if cpu or deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
        torch.use_deterministic_algorithms(True)
    accelerator = Accelerator(mixed_precision=mixed, cpu=cpu, kwargs_handlers=[DDP])
    refuse_unsupported_modes(accelerator)
    return accelerator


def refuse_plugins() -> None:
    """Refuse DeepSpeed and Megatron-LM, before Accelerate imports them and raises ImportError.

    Raises:
        InputError: the launcher asks for one of them.
    """
    for name in ("DEEPSPEED", "MEGATRON_LM"):
        if parse_flag_from_env(f"ACCELERATE_USE_{name}"):
            raise InputError(f"the launcher asks for {name}, {UNSUPPORTED}")


def refuse_unsupported_modes(accelerator: Accelerator) -> None:
    """Refuse distributed modes other than DDP and FSDP2.

    Raises:
        InputError: the launcher asks for FSDP version 1 or another mode.
    """
    kind = accelerator.distributed_type
    supported = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    if kind in supported or (is_sharded(accelerator) and accelerator.is_fsdp2):
        return
    version = " version 1" if is_sharded(accelerator) else ""
    raise InputError(f"the launcher asks for {kind.value}{version}, {UNSUPPORTED}")


def _refuse_gradient_accumulation() -> None:
    if os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1") != "1":
        raise InputError(
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS is set, which would scale the loss twice: "
            "unset it; set data.max_seconds_per_forward to split an update into forward passes"
        )


def trim_memory() -> None:
    """Return free memory to the kernel, on Linux with glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory: otherwise the kernel zeroes the same pages in every update.

    That took an eighth of a CPU's time (whisper-tiny, updates of 20 s). The peak is the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        for option, value in MALLOPT:
            mallopt(option, value)


def _refuse_missing_trackers(trackers: tuple[str, ...]) -> None:
    """Refuse trackers that Accelerate would ignore silently."""
    installed = [kind.value for kind in get_available_trackers()]
    for name in trackers:
        if name not in installed:
            raise InputError(
                f"log.trackers: {name!r} is not installed, or Accelerate does not support it: "
                f"install its package, or choose from {', '.join(installed)}"
            )
