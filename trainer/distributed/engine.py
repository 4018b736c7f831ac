"""What an update does differently on one process, under DDP and under FSDP2.

The loop and the step call Engine's methods and name none of the three. FSDP2 shards weights,
gradients and moments over processes; otherwise each process holds all of them.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from trainer.distributed.fsdp import apart
from trainer.model import TrainingModule
from trainer.optimizer import OptimConfig, build_optimizer


class Engine:
    """A prepared model and its optimizer: accumulates gradients, clips them, moves the weights."""

    def __init__(self, accelerator: Accelerator, model: nn.Module, optimizer: Any) -> None:
        """Take what Accelerator.prepare() returned.

        Args:
            accelerator: knows the other processes, the device, autocast and loss scaling.
            model: a prepared TrainingModule.
            optimizer: the prepared optimizer.
        """
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer

    @property
    def module(self) -> TrainingModule:
        """Return the TrainingModule without what it was wrapped in."""
        module: TrainingModule = self.accelerator.unwrap_model(self.model)
        return module

    def gradient_sync(self, *, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one pass: with the last one gradients are averaged over processes.

        Args:
            last: whether the pass is the update's last one.
        """
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss of shape (), scaled where a loss scaler is in use."""
        self.accelerator.backward(loss)

    def clip_gradient(self, max_norm: float) -> Tensor:
        """Clip the norm of the gradient; one that is not finite will not move a weight.

        Returns:
            The norm over all processes before clipping, shape ().
        """
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), max_norm)
        whole: Tensor = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self.accelerator.scaler is None:  # a loss scaler sets it by itself
            self._torch_optimizer.found_inf = (~torch.isfinite(whole)).float()
        return whole

    def optimizer_step(self) -> None:
        """Move the weights where the clipped gradient is finite on all processes."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def skip_update(self) -> None:
        """End an update without moving a weight; the optimizer allocates its moments all the same.

        Without a gradient momentum alone would move weights.
        """
        optimizer = self._torch_optimizer  # Accelerate's, with a loss scaler, may skip its step()
        optimizer.found_inf = torch.ones((), device=self.accelerator.device)
        optimizer.step()
        del optimizer.found_inf
        self.discard_gradients()

    def discard_gradients(self) -> None:
        """Drop the gradients of an update that is not made, and reset the GradScaler's state of it.

        A GradScaler that saw unscale_() and no update() raises at the next update.
        """
        self.optimizer.zero_grad()
        scaler = self.accelerator.scaler
        if scaler is not None:
            scaler.scale(torch.ones((), device=self.accelerator.device))  # it may not have begun
            scaler.update(scaler.get_scale())  # the scale stays

    @property
    def _torch_optimizer(self) -> Any:
        """Return torch's optimizer inside of Accelerate's."""
        return getattr(self.optimizer, "optimizer", self.optimizer)


def build_engine(accelerator: Accelerator, module: TrainingModule, config: OptimConfig) -> Engine:
    """Build the optimizer, and prepare both as the launcher asks: for DDP, FSDP2 or one process."""
    module = apart(module, accelerator)
    return Engine(accelerator, *accelerator.prepare(module, build_optimizer(module, config)))
