"""Engine: accumulates, clips and applies gradients, on one process, with DDP or with FSDP2.

The loop and the step only call Engine's methods. FSDP2 shards weights, gradients and moments over
processes; otherwise each process holds all of them.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from trainer.distributed.collectives import average
from trainer.half_precision.weights import HalfWeights
from trainer.model import TrainingModule


class Engine:
    """A prepared model and its optimizer."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Any,
        weights: HalfWeights | None = None,
        reduce_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Store what Accelerator.prepare() returned.

        Args:
            accelerator: handles processes, device, autocast and loss scaling.
            model: a prepared TrainingModule.
            optimizer: the prepared optimizer.
            weights: the half-precision weights of the model, if it computes with them.
            reduce_dtype: in which their gradient is averaged over processes.
        """
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer
        self._weights = weights
        self._reduce_dtype = reduce_dtype

    @property
    def module(self) -> TrainingModule:
        """Return the TrainingModule without wrappers."""
        module: TrainingModule = self.accelerator.unwrap_model(self.model)
        return module

    def begin_update(self) -> None:
        """Cast the weights, if the model computes with half-precision copies."""
        if self._weights is not None:
            self._weights.begin_update()

    def gradient_sync(self, *, last: bool) -> AbstractContextManager[Any]:
        """Return the context of a pass; the last one averages gradients over processes.

        Args:
            last: whether the pass is the last one of its update.
        """
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss, shape (); scale the loss with fp16."""
        self.accelerator.backward(loss)

    def average_gradient(self) -> None:
        """Average the gradient over processes, unless DDP or FSDP did so in the last pass."""
        if self._weights is not None:
            average(self.accelerator, self._weights.gradient, self._reduce_dtype)
            self._weights.end_update()

    def clip_gradient(self, max_norm: float) -> Tensor:
        """Clip the norm of the gradient. If it is not finite, optimizer_step() changes no weight.

        Returns:
            The norm over all processes before clipping, shape ().
        """
        norm: Any = self.accelerator.clip_grad_norm_(self.model.parameters(), max_norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self.accelerator.scaler is None:  # a GradScaler sets found_inf itself
            self._torch_optimizer.found_inf = (~torch.isfinite(norm)).float()
        return norm

    def optimizer_step(self) -> None:
        """Update the weights if the gradient is finite on all processes; clear gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def skip_update(self) -> None:
        """End an update without changing a weight; the optimizer still allocates its moments.

        A step with a gradient of zero would change weights, because of the moments.
        """
        optimizer = self._torch_optimizer  # Accelerate's may skip step() with a GradScaler
        optimizer.found_inf = torch.ones((), device=self.accelerator.device)
        optimizer.step()
        del optimizer.found_inf
        self.discard_gradients()

    def discard_gradients(self) -> None:
        """Discard the gradients of an update, and reset the GradScaler.

        After unscale_() without update() a GradScaler raises at the next update.
        """
        self.optimizer.zero_grad()
        scaler = self.accelerator.scaler
        if scaler is not None:
            scaler.scale(torch.ones((), device=self.accelerator.device))  # initializes it
            scaler.update(scaler.get_scale())  # keeps the scale

    def free_memory(self) -> None:
        """Free CUDA graphs, which are captured again, and memory that PyTorch caches.

        Evaluations cannot use the memory of graphs.
        """
        if self.module.graphs is not None:
            self.module.graphs.clear()
        torch.cuda.empty_cache()  # does nothing without a GPU

    @property
    def _torch_optimizer(self) -> Any:
        """Return the torch optimizer that Accelerate's wraps."""
        return getattr(self.optimizer, "optimizer", self.optimizer)
