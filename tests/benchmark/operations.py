"""Count the operations of a forward and backward pass, which a GPU launches one by one.

    python -m tests.benchmark.operations --out=operations.json

The model has whisper-small's depth and a small width: counts depend on the depth alone.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from data.atomic_files import write_json
from data.batch import target_positions
from data.config_parser import parse_dataclass
from data.errors import plain_errors
from eval.silence_states import patch_attention
from eval.whisper import TrueLengthEncoder
from trainer.half_precision.forward import HalfForward
from trainer.lora import add_adapters
from trainer.model import TrainingModule

SIZE = {"d_model": 96, "encoder_ffn_dim": 384, "decoder_ffn_dim": 384, "vocab_size": 300}
HEADS = {"encoder_attention_heads": 12, "decoder_attention_heads": 12}
LAYERS = 12  # of whisper-small's encoder, and of its decoder
TOKENS = {"pad_token_id": 3, "bos_token_id": 3, "eos_token_id": 3, "decoder_start_token_id": 4}
TRAINED: dict[str, tuple[str, ...]] = {
    "all weights": (),
    "LoRA of q_proj v_proj": ("q_proj", "v_proj"),
    "LoRA of all linear layers": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
}
CASTS = ("aten::_to_copy", "aten::_foreach_copy_")
SYNCS = ("aten::_local_scalar_dense", "aten::nonzero")
# views that their schema does not mark as such
VIEWS = ("aten::_unsafe_view", "aten::_reshape_alias", "aten::detach")


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What a pass issues; views are not counted, since they start nothing on a GPU."""

    operations: int
    casts: int  # from one precision to another, in a pass
    update_casts: int  # operations that cast weights at the beginning of an update
    syncs: int  # operations that read a value of the device, and wait for it
    masks: int  # attentions with an additive mask, which exclude flash attention


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Count the operations of a pass."""

    out: str | None = None  # JSON


class OperationCounter(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        """Count nothing yet."""
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.masks = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count an operation, and run it."""
        kwargs = kwargs or {}
        name = func._schema.name
        if not (func.is_view or name in VIEWS):
            self.counts[name] += 1
        self.masks += kwargs.get("attn_mask") is not None
        return func(*args, **kwargs)

    def count(self, run: Callable[[], Any]) -> Any:
        """Run a function, and count what it issues."""
        with self:
            return run()


def count_operations(
    dtype: torch.dtype, *, silence: bool, autocast: bool = False, adapters: Sequence[str] = ()
) -> Counts:
    """Count the operations of the second pass of an update.

    Args:
        dtype: of the computation.
        silence: whether attention uses silence states.
        autocast: use the stock model under autocast, not HalfForward.
        adapters: linear layers that have a LoRA adapter, by the ends of their names; all other
            weights are then frozen. Without any, all weights are trained.
    """
    module = small_module(silence=silence)
    if adapters:
        add_adapters(module.whisper, adapters, rank=4, alpha=8, dropout=0.0)
    features, ids = torch.randn(4, 80, 496), torch.randint(5, 300, (4, 24))
    targets, begun, counter = target_positions(ids), OperationCounter(), OperationCounter()
    if not autocast:
        module.half_forward = HalfForward(module.whisper, dtype, torch.device("cpu"))
        begun.count(module.half_forward.weights.begin_update)

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", dtype, enabled=autocast):
            loss: torch.Tensor = module(features, ids, ids, targets=targets).sum()
        return loss

    forward().backward()
    loss = counter.count(forward)
    counter.count(loss.backward)
    return Counts(
        operations=counter.counts.total(),
        casts=sum(counter.counts[name] for name in CASTS),
        update_casts=sum(begun.counts[name] for name in CASTS),
        syncs=sum(counter.counts[name] for name in SYNCS),
        masks=counter.masks,
    )


def small_module(*, silence: bool, layers: int = LAYERS) -> TrainingModule:
    """Return a narrow model of whisper-small's depth, or of another one."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration  # after data

    suppress: dict[str, Any] = {"suppress_tokens": None, "begin_suppress_tokens": None}
    depth = {"encoder_layers": layers, "decoder_layers": layers}
    config = WhisperConfig(**SIZE, **HEADS, **depth, **TOKENS, **suppress)
    torch.manual_seed(0)
    whisper: Any = WhisperForConditionalGeneration(config)
    whisper.model.encoder.__class__ = TrueLengthEncoder
    patch_attention(whisper)
    module: nn.Module = TrainingModule(whisper, freeze_encoder=False, silence=silence).train()
    assert isinstance(module, TrainingModule)
    return module


def main() -> None:
    """Count, show, and write."""
    with plain_errors():
        command = parse_dataclass(Command, sys.argv[1:])
        table = Table("pass", *(key.replace("_", " ") for key in Counts.__slots__))
        rows = []
        for silence, (trained, adapters) in product((True, False), TRAINED.items()):
            for name, autocast in (("autocast", True), ("weights cast once", False)):
                counts = count_operations(
                    torch.bfloat16, silence=silence, autocast=autocast, adapters=adapters
                )
                title = f"{trained}, {name}, {'with' if silence else 'without'} silence states"
                rows.append({"name": title, **asdict(counts)})
                table.add_row(title, *map(str, asdict(counts).values()))
        Console().print(table)
        if command.out is not None:
            write_json(Path(command.out), rows)


if __name__ == "__main__":
    main()
