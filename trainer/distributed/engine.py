"""Engine: accumulates, clips and applies gradients, on one process, with DDP or with FSDP2.

The loop and the step only call Engine's methods. FSDP2 shards weights, gradients and moments over
processes; otherwise each process holds all of them.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed import GradBucket, ProcessGroup
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.tensor import DTensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from eval.half_precision import DTYPES
from trainer.distributed.collectives import average
from trainer.distributed.fsdp import is_sharded, separate_full_model, set_reduce_dtype
from trainer.half_precision.compiled import compile_layers
from trainer.half_precision.forward import HalfForward
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

    @property
    def _torch_optimizer(self) -> Any:
        """Return the torch optimizer that Accelerate's wraps."""
        return getattr(self.optimizer, "optimizer", self.optimizer)


def build_engine(
    accelerator: Accelerator,
    module: TrainingModule,
    model: ModelConfig,
    optim: OptimConfig,
    print_fn: Callable[[str], None],
) -> Engine:
    """Build the optimizer, and prepare it and the module for the launcher's distributed mode.

    With half-precision weights DDP is not used: their gradients lie in one tensor, which is
    averaged at once.

    Args:
        accelerator: handles processes, device, autocast and loss scaling.
        module: what prepare_training() returned.
        model: its configuration.
        optim: the optimizer's configuration.
        print_fn: prints warnings.
    """
    dtype = DTYPES.get(accelerator.mixed_precision)
    if dtype is None or not model.cast_once or model.lora_rank or is_sharded(accelerator):
        return _prepare_stock_model(accelerator, module, optim)
    accelerator.prepare_model(module, evaluation_mode=True)  # this means without DDP
    module.half_forward = HalfForward(
        module.whisper,
        dtype,
        freeze_encoder=model.frozen_encoder,
        gradient_checkpointing=model.gradient_checkpointing,
    )
    # the compiler may order sums in another way at each start
    on_gpu, exact = accelerator.device.type == "cuda", torch.are_deterministic_algorithms_enabled()
    if model.compile or (model.compile is None and on_gpu and not exact):
        n_mels = module.whisper.config.num_mel_bins
        compile_layers(module.half_forward, n_mels, module.silence, print_fn)
    optimizer = accelerator.prepare(build_optimizer(module, optim))
    reduce_dtype = DTYPES.get(optim.reduce_dtype, torch.float32)
    return Engine(accelerator, module, optimizer, module.half_forward.weights, reduce_dtype)


def _prepare_stock_model(
    accelerator: Accelerator, module: TrainingModule, optim: OptimConfig
) -> Engine:
    """Prepare a module without half-precision weights; for several processes with DDP or FSDP2."""
    if is_sharded(accelerator):
        set_reduce_dtype(accelerator, DTYPES.get(optim.reduce_dtype, torch.float32))
    module = separate_full_model(module, accelerator)
    model, optimizer = accelerator.prepare(module, build_optimizer(module, optim))
    if isinstance(model, DistributedDataParallel) and optim.reduce_dtype == "bf16":
        model.register_comm_hook(None, _all_reduce_in_bf16)
    return Engine(accelerator, model, optimizer)


def _all_reduce_in_bf16(group: ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
    """Call PyTorch's hook: by its own name DDP refuses it on a CPU, where gloo supports bf16."""
    return bf16_compress_hook(group, bucket)  # type: ignore[arg-type]  # None: all processes
