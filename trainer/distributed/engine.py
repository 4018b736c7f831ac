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

from data.errors import InputError
from eval.half_precision import DTYPES
from trainer.distributed.collectives import average
from trainer.distributed.fsdp import is_sharded, separate_full_model
from trainer.half_precision.forward import HalfForward
from trainer.half_precision.four_bit import refuse_without_bitsandbytes
from trainer.half_precision.weights import HalfWeights
from trainer.model import ModelConfig, TrainingModule
from trainer.optimizer import OptimConfig, build_optimizer


class Engine:
    """A prepared model and its optimizer."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Any,
        weights: HalfWeights | None = None,
    ) -> None:
        """Store what Accelerator.prepare() returned.

        Args:
            accelerator: handles processes, device, autocast and loss scaling.
            model: a prepared TrainingModule.
            optimizer: the prepared optimizer.
            weights: the half-precision weights of the model, if it computes with them.
        """
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer
        self._weights = weights

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

    def clip_gradient(self, max_norm: float) -> Tensor:
        """Clip the norm of the gradient. If it is not finite, optimizer_step() changes no weight.

        With half-precision weights, the gradient is averaged over processes here.

        Returns:
            The norm over all processes before clipping, shape ().
        """
        if self._weights is not None:
            average(self.accelerator, self._weights.gradient)
            self._weights.end_update()
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

    @property
    def _torch_optimizer(self) -> Any:
        """Return the torch optimizer that Accelerate's wraps."""
        return getattr(self.optimizer, "optimizer", self.optimizer)


def build_engine(
    accelerator: Accelerator, module: TrainingModule, model: ModelConfig, optim: OptimConfig
) -> Engine:
    """Build the optimizer, and prepare it and the module for the launcher's distributed mode.

    With half-precision weights DDP is not used: their gradients lie in one tensor, which is
    averaged at once. The device then holds the half-precision copies of all weights, and the
    float32 weights that are trained; frozen float32 weights stay in host memory.

    Raises:
        InputError: model.base_bits is set, and half-precision weights are not used, or bitsandbytes
            does not work.
    """
    dtype = DTYPES.get(accelerator.mixed_precision)
    if dtype is None or not model.cast_once or is_sharded(accelerator):
        if model.base_bits is not None:
            raise InputError(
                f"model.base_bits={model.base_bits} needs precision=bf16 or fp16, and no FSDP: "
                "change these, or remove model.base_bits"
            )
        module = separate_full_model(module, accelerator)
        return Engine(accelerator, *accelerator.prepare(module, build_optimizer(module, optim)))
    if model.base_bits is not None:
        refuse_without_bitsandbytes(accelerator.device)
    # evaluation_mode means without DDP
    accelerator.prepare_model(module, device_placement=False, evaluation_mode=True)
    move_trained(module, accelerator.device)
    module.half_forward = HalfForward(
        module.whisper,
        dtype,
        accelerator.device,
        four_bits=model.base_bits is not None,
        freeze_encoder=model.frozen_encoder,
        gradient_checkpointing=model.gradient_checkpointing,
    )
    weights = module.half_forward.weights
    module.register_load_state_dict_post_hook(lambda *_: weights.cast_frozen())
    optimizer = accelerator.prepare(build_optimizer(module, optim))
    return Engine(accelerator, module, optimizer, weights)


@torch.no_grad()
def move_trained(module: nn.Module, device: torch.device) -> None:
    """Move buffers and the weights that are trained to a device; frozen weights stay."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    for tensor in (*trained, *module.buffers()):
        if tensor.device != device:  # swapping keeps the identity of tied weights
            moved = tensor.to(device)
            is_weight = isinstance(tensor, nn.Parameter)
            torch.utils.swap_tensors(tensor, nn.Parameter(moved) if is_weight else moved)
