"""LiveMemory: the bytes of the tensors that are alive after each operation."""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that operations allocate and that are alive.

    Tensors from before it was entered are not counted, nor is what a kernel allocates for itself.
    """

    def __init__(self) -> None:
        """Count nothing yet."""
        super().__init__()
        self.history: list[int] = []  # bytes after each operation
        self._live: dict[int, Any] = {}  # weak references to storages, by address
        self._bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count the memory of its results that is not that of an argument."""
        result = func(*args, **(kwargs or {}))
        known = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            if storage._cdata not in known and storage._cdata not in self._live:
                self._count(storage)
        self.history.append(self._bytes)
        return result

    def _count(self, storage: Any) -> None:
        """Count a storage until it is freed."""
        address, size = storage._cdata, storage.nbytes()

        def free(_: Any) -> None:
            del self._live[address]
            self._bytes -= size

        self._live[address] = weakref.ref(storage, free)
        self._bytes += size


def _storages(tree: Any) -> list[Any]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
