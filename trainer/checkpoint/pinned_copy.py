"""Copies a GPU's tensors to host memory while the GPU goes on computing."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# bytes. torch rounds an allocation of pinned memory up to a power of two: one a tensor would take
# 1.3 to 1.8 times as much
BLOCK = 2**28
ALIGNMENT = 64  # bytes between the starts of tensors in a block: a multiple of each dtype's size


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return a state dict in which each tensor is replaced; dicts and lists are new ones."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(each, change) for key, each in value.items()}
    return [map_tensors(each, change) for each in value] if isinstance(value, list) else value


def to_host(tensor: Tensor) -> Tensor:
    """Return a copy in host memory, once it is complete."""
    return tensor.detach().to("cpu", copy=True)


class HostBlocks:
    """Host memory for the copies of many tensors, allocated once and used again."""

    def __init__(self, *, pinned: bool) -> None:
        """Start without memory."""
        self._pinned = pinned
        self._blocks: list[Tensor] = []
        self._number = 0  # of the block that is being filled
        self._used = 0  # bytes of it

    def reset(self) -> None:
        """Give all memory out again: whoever got some before must have finished with it."""
        self._number = self._used = 0

    def empty_like(self, tensor: Tensor) -> Tensor:
        """Return a contiguous tensor of this shape and dtype in host memory, uninitialized.

        Raises:
            RuntimeError: there is no pinned memory left.
        """
        if not tensor.numel():
            return torch.empty(tensor.shape, dtype=tensor.dtype)
        while not self._fits(tensor.nbytes):
            self._number, self._used = self._number + 1, 0
        # not a view of the block: torch.save would write the whole block with it
        held = torch.frombuffer(
            self._blocks[self._number].numpy(),
            dtype=tensor.dtype,
            count=tensor.numel(),
            offset=self._used,
        )
        self._used += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        return held.view(tensor.shape)

    def _fits(self, needed: int) -> bool:
        """Tell whether the block has room for it; past the last block another one is allocated."""
        if self._number == len(self._blocks):
            size = max(BLOCK, needed)
            self._blocks.append(torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned))
        return self._used + needed <= self._blocks[self._number].nbytes


class PinnedCopy:
    """Copies tensors to pinned host memory on a CUDA stream of its own, beside training.

    What changes one of them in place has to wait for the copy. The optimizer's step does, by a
    hook; before any other change wait() is to be called.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        print_fn: Callable[[str], None],
    ) -> None:
        """Allocate nothing yet.

        Args:
            optimizer: its step waits for a copy that is under way.
            device: where the tensors are.
            print_fn: prints a sentence.
        """
        self._device = device
        self._print_fn = print_fn
        self._blocks: HostBlocks | None = HostBlocks(pinned=True)  # None: there was no memory
        self._stream: torch.cuda.Stream | None = None
        self._copied: torch.cuda.Event | None = None
        optimizer.register_step_pre_hook(lambda *_: self.wait())

    def copy(self, value: Any) -> tuple[Any, torch.cuda.Event | None]:
        """Begin to copy the tensors of a state dict into the memory of the copy before.

        Args:
            value: nested dicts and lists. Tensors of other devices are copied at once.

        Returns:
            the same with tensors in host memory, and the event after which they may be read; None
            where they may be read at once.
        """
        pairs: list[tuple[Tensor, Tensor]] = []

        def place(tensor: Tensor) -> Tensor:
            if tensor.device.type != self._device.type or self._blocks is None:
                return to_host(tensor)
            pairs.append((self._blocks.empty_like(tensor), tensor.detach()))
            return pairs[-1][0]

        if self._blocks is not None:
            self._blocks.reset()
        refusal = ""
        try:
            copies = map_tensors(value, place)
        except RuntimeError as error:
            refusal = str(error).strip().split("\n")[0]
        if refusal:  # behind the except, which holds what was allocated
            pairs.clear()
            self._give_up(refusal)
            return map_tensors(value, to_host), None
        return copies, self._begin(pairs) if pairs else None

    def wait(self) -> None:
        """Make what the GPU is given from here on wait for the copy; the host does not wait."""
        if self._copied is not None:
            torch.cuda.current_stream(self._device).wait_event(self._copied)
            self._copied = None

    def _begin(self, pairs: list[tuple[Tensor, Tensor]]) -> torch.cuda.Event:
        """Copy once what the GPU was given so far is computed; return the event of the end."""
        computing = torch.cuda.current_stream(self._device)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        self._stream.wait_stream(computing)
        with torch.cuda.stream(self._stream):
            for host, tensor in pairs:
                host.copy_(tensor, non_blocking=True)
            # blocking: the thread that waits for it sleeps and takes no CPU from data loading
            self._copied = torch.cuda.Event(blocking=True)
            self._copied.record(self._stream)
        return self._copied

    def _give_up(self, reason: str) -> None:
        """Copy without pinned memory from here on, and give back what there was of it."""
        self._blocks = None
        release = getattr(torch.accelerator, "empty_host_cache", None)  # torch 2.11 may lack it
        release = release or getattr(torch._C, "_host_emptyCache", None)
        if release is not None and torch.cuda.is_available():
            release()
        self._print_fn(
            f"warning: no pinned host memory for checkpoints ({reason}): training pauses while "
            "each is copied; free host memory, or raise the limits of the job, to avoid it"
        )
