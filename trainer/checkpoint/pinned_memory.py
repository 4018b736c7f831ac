"""Copy GPU tensors to pinned host memory on a CUDA stream, while the GPU keeps computing."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# bytes; torch rounds pinned allocations up to a power of two: one allocation per tensor would take
# 1.3 to 1.8 times as much memory
BLOCK_BYTES = 2**28
ALIGNMENT = 64  # bytes; tensors start at multiples of it, as the size of every dtype divides it


def map_tensors(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Return a copy of nested dicts and lists with a function applied to each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, function) for key, item in value.items()}
    return [map_tensors(item, function) for item in value] if isinstance(value, list) else value


def to_host(tensor: Tensor) -> Tensor:
    """Return a copy in host memory; wait until it is complete."""
    return tensor.detach().to("cpu", copy=True)


class HostBlocks:
    """Host memory for copies of many tensors, allocated once and reused."""

    def __init__(self, *, pinned: bool) -> None:
        """Allocate nothing yet."""
        self._pinned = pinned
        self._blocks: list[Tensor] = []
        self._index = 0  # of the block that is being filled
        self._used = 0  # bytes of it

    def reset(self) -> None:
        """Reuse all memory; tensors that were returned before become invalid."""
        self._index = self._used = 0

    def empty_like(self, tensor: Tensor) -> Tensor:
        """Return a contiguous tensor of this shape and dtype in host memory, uninitialized.

        Raises:
            RuntimeError: no pinned memory is left.
        """
        if not tensor.numel():
            return torch.empty(tensor.shape, dtype=tensor.dtype)
        while not self._fits(tensor.nbytes):
            self._index, self._used = self._index + 1, 0
        # not a view of the block: torch.save would write the whole block with it
        buffer = torch.frombuffer(
            self._blocks[self._index].numpy(),
            dtype=tensor.dtype,
            count=tensor.numel(),
            offset=self._used,
        )
        self._used += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        return buffer.view(tensor.shape)

    def _fits(self, needed: int) -> bool:
        """Return whether the current block has room; allocate one after the last block."""
        if self._index == len(self._blocks):
            size = max(BLOCK_BYTES, needed)
            self._blocks.append(torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned))
        return self._used + needed <= self._blocks[self._index].nbytes


class PinnedCopy:
    """Copies tensors to pinned host memory on a separate CUDA stream, during training.

    In-place changes of the tensors must wait for the copy. The optimizer's step does so through a
    hook; call wait() before any other change.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        print_fn: Callable[[str], None],
    ) -> None:
        """Allocate nothing yet.

        Args:
            optimizer: its step waits for a running copy.
            device: of the tensors.
            print_fn: prints warnings.
        """
        self._device = device
        self._print_fn = print_fn
        self._blocks: HostBlocks | None = HostBlocks(pinned=True)  # None: out of pinned memory
        self._stream: torch.cuda.Stream | None = None
        self._copied: torch.cuda.Event | None = None
        optimizer.register_step_pre_hook(lambda *_: self.wait())

    def copy(self, value: Any) -> tuple[Any, torch.cuda.Event | None]:
        """Start copying the tensors of a state dict, into the memory of the previous copy.

        Args:
            value: nested dicts and lists. Tensors of other devices are copied before the return.

        Returns:
            the state dict with tensors in host memory, and the event after which they may be read;
            None if they may be read at once.
        """
        pairs: list[tuple[Tensor, Tensor]] = []

        def allocate(tensor: Tensor) -> Tensor:
            if tensor.device.type != self._device.type or self._blocks is None:
                return to_host(tensor)
            pairs.append((self._blocks.empty_like(tensor), tensor.detach()))
            return pairs[-1][0]

        if self._blocks is not None:
            self._blocks.reset()
        failure = ""
        try:
            copies = map_tensors(value, allocate)
        except RuntimeError as error:
            failure = str(error).strip().split("\n")[0]
        if failure:  # after the except clause: its traceback holds the allocated tensors
            pairs.clear()
            self._disable(failure)
            return map_tensors(value, to_host), None
        return copies, self._start(pairs) if pairs else None

    def wait(self) -> None:
        """Make later work of the GPU wait for the copy; the host does not wait."""
        if self._copied is not None:
            torch.cuda.current_stream(self._device).wait_event(self._copied)
            self._copied = None

    def _start(self, pairs: list[tuple[Tensor, Tensor]]) -> torch.cuda.Event:
        """Copy after the work queued so far; return the event that marks the end."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for host, tensor in pairs:
                host.copy_(tensor, non_blocking=True)
            # blocking: a waiting thread sleeps and takes no CPU time from data loading
            self._copied = torch.cuda.Event(blocking=True)
            self._copied.record(self._stream)
        return self._copied

    def _disable(self, reason: str) -> None:
        """Free the pinned memory, and use ordinary memory from now on."""
        self._blocks = None
        release = getattr(torch.accelerator, "empty_host_cache", None)  # torch 2.11 may lack it
        release = release or getattr(torch._C, "_host_emptyCache", None)
        if release is not None and torch.cuda.is_available():
            release()
        self._print_fn(
            f"warning: no pinned host memory for checkpoints ({reason}): training pauses while "
            "each checkpoint is copied; to avoid it, free host memory or raise the job's limits"
        )
