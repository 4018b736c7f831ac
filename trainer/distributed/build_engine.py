"""Build the Engine: half-precision weights, or the stock model with DDP or FSDP2."""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed import GradBucket, ProcessGroup
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from data.errors import InputError
from eval.half_precision import DTYPES
from trainer.distributed.engine import Engine
from trainer.distributed.fsdp import is_sharded, separate_full_model, set_reduce_dtype
from trainer.half_precision.compiled import compile_layers
from trainer.half_precision.forward import HalfForward
from trainer.half_precision.four_bit import refuse_without_bitsandbytes
from trainer.half_precision.graph_check import check_graphs
from trainer.half_precision.graphs import PassGraphs
from trainer.half_precision.weights import HalfWeights
from trainer.model import ModelConfig, TrainingModule
from trainer.optimizer import OptimConfig, build_optimizer


def build_engine(
    accelerator: Accelerator,
    module: TrainingModule,
    model: ModelConfig,
    optim: OptimConfig,
    print_fn: Callable[[str], None],
) -> Engine:
    """Build the optimizer, and prepare it and the module for the launcher's distributed mode.

    With half-precision weights DDP is not used: their gradients lie in one tensor, which is
    averaged at once. The device then holds the half-precision copies of all weights, and the
    float32 weights that are trained; frozen float32 weights stay in host memory.

    Raises:
        InputError: model.base_bits or model.cuda_graphs is set, and what it needs is not.
    """
    dtype = DTYPES.get(accelerator.mixed_precision)
    stock = dtype is None or not model.cast_once or is_sharded(accelerator)
    _refuse_without_half_precision(accelerator, model, stock=stock)
    if dtype is None or stock:
        if model.compile:
            print_fn(
                "warning: model.compile has no effect on the stock model: it needs precision=bf16 "
                "or fp16, model.cast_once, and no FSDP"
            )
        return _prepare_stock_model(accelerator, module, optim)
    # evaluation_mode means without DDP
    accelerator.prepare_model(module, device_placement=False, evaluation_mode=True)
    move_trained(module, accelerator.device)
    weights = _use_half_precision(module, dtype, accelerator.device, model, print_fn)
    optimizer = accelerator.prepare(build_optimizer(module, optim))
    reduce_dtype = DTYPES.get(optim.reduce_dtype, torch.float32)
    return Engine(accelerator, module, optimizer, weights, reduce_dtype)


def _refuse_without_half_precision(
    accelerator: Accelerator, model: ModelConfig, *, stock: bool
) -> None:
    """Refuse knobs that the stock model does not support.

    Raises:
        InputError: one of them is set, and what it needs is not.
    """
    if model.base_bits is not None:
        if stock or not model.lora_rank:
            raise InputError(
                f"model.base_bits={model.base_bits} needs model.lora_rank (such as 32), "
                "precision=bf16 or fp16, model.cast_once, and no FSDP: change these, or remove "
                "model.base_bits"
            )
        refuse_without_bitsandbytes(accelerator.device)
    if model.cuda_graphs and (stock or model.base_bits or accelerator.device.type != "cuda"):
        raise InputError(
            "model.cuda_graphs=true needs a GPU, precision=bf16 or fp16, model.cast_once, no "
            "model.base_bits and no FSDP: change these, or remove model.cuda_graphs"
        )


def _use_half_precision(
    module: TrainingModule,
    dtype: torch.dtype,
    device: torch.device,
    config: ModelConfig,
    print_fn: Callable[[str], None],
) -> HalfWeights:
    """Make a module compute from half-precision weights, and return them.

    Raises:
        InputError: CUDA graphs, gradient checkpointing and dropout do not go together.
    """
    forward = module.half_forward = HalfForward(
        module.whisper,
        dtype,
        device,
        four_bits=config.base_bits is not None,
        freeze_encoder=config.frozen_encoder,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    # the compiler may order sums in another way at each start
    exact = torch.are_deterministic_algorithms_enabled()
    wanted = config.compile or (config.compile is None and device.type == "cuda" and not exact)
    if wanted and config.base_bits is None:  # it cannot compile 4 bits
        n_mels = module.whisper.config.num_mel_bins
        compile_layers(forward, n_mels, module.silence, print_fn)
    if config.cuda_graphs:
        if config.gradient_checkpointing and forward.layers.has_dropout:
            raise InputError(
                "model.cuda_graphs=true with model.gradient_checkpointing=true cannot draw dropout "
                "again in the backward pass: remove one of the two, or dropout"
            )
        _use_graphs(module, forward.weights, print_fn)
    module.register_load_state_dict_post_hook(lambda *_: forward.weights.cast_frozen())
    return forward.weights


def _use_graphs(
    module: TrainingModule, weights: HalfWeights, print_fn: Callable[[str], None]
) -> None:
    """Make a module replay CUDA graphs, if that gives the gradient of eager passes."""
    config, graphs = module.whisper.config, PassGraphs(module.losses, print_fn)
    module.train()
    check_graphs(
        graphs, module.losses, weights, n_mels=config.num_mel_bins, tokens=config.vocab_size
    )
    module.graphs = graphs


@torch.no_grad()
def move_trained(module: nn.Module, device: torch.device) -> None:
    """Move buffers and the weights that are trained to a device; frozen weights stay."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    for tensor in (*trained, *module.buffers()):
        if tensor.device != device:  # swapping keeps the identity of tied weights
            moved = tensor.to(device)
            is_weight = isinstance(tensor, nn.Parameter)
            torch.utils.swap_tensors(tensor, nn.Parameter(moved) if is_weight else moved)


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
