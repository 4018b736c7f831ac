"""TrainingModule: Whisper with the loss of each target token; dropout, freezing and adapters."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from data.batch import target_positions
from data.errors import InputError
from eval.silence_states import compute_silence_states, set_silence_states
from eval.whisper import Whisper
from trainer.half_precision.forward import HalfForward
from trainer.half_precision.graphs import Inputs, PassGraphs
from trainer.lora import add_adapters


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The model, and which of its weights are trained."""

    # The Whisper model to fine-tune: a name on the Hugging Face Hub, or a folder.
    name: str = "openai/whisper-small"
    revision: str | None = None  # Commit of a model on the Hub. None takes the newest one.
    # Recompute activations in the backward pass: saves much memory and takes a third more time.
    gradient_checkpointing: bool = False
    # With bf16 or fp16, cast weights once an update, not in every pass. FSDP casts in every pass.
    cast_once: bool = True
    # Compile the layers with torch.compile. None does so on a GPU, unless deterministic is set.
    compile: bool | None = None
    # Replay training passes as CUDA graphs, on a GPU: less time to launch small models' kernels.
    cuda_graphs: bool = False
    freeze_encoder: bool = False  # Train the decoder only.
    # Names of further modules or weights that are not trained; * stands for any letters.
    freeze: tuple[str, ...] = ()
    # Dropout probability. None keeps the checkpoint's own, which is 0 in Whisper.
    dropout: float | None = None
    # Attend to states of silence behind clips, as if they were padded to 30 s (docs/ablation.md).
    silence_states: bool = True
    # Train LoRA adapters of this rank alone (docs/lora.md). None trains the weights themselves.
    lora_rank: int | None = None
    # Scale of the adapters: each is multiplied by alpha / rank. None is twice the rank.
    lora_alpha: float | None = None
    lora_dropout: float = 0.0  # Dropout probability of the adapters' input.
    # Layers that get an adapter, by the ends of their names.
    lora_modules: tuple[str, ...] = ("q_proj", "v_proj")
    # Bits of frozen linear layers: 4 (QLoRA, the extra qlora). None holds them in half precision.
    base_bits: int | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a number is out of its range.
        """
        if self.lora_rank is not None and self.lora_rank < 1:
            raise InputError(f"model.lora_rank must be at least 1, got {self.lora_rank}")
        if self.lora_alpha is not None and not self.lora_alpha > 0:
            raise InputError(f"model.lora_alpha must be greater than 0, got {self.lora_alpha}")
        if not 0 <= self.lora_dropout < 1:
            raise InputError(f"model.lora_dropout must be from 0 to below 1: {self.lora_dropout}")
        if self.base_bits not in (None, 4):
            raise InputError(f"model.base_bits must be 4 or None, got {self.base_bits}")

    @property
    def frozen_encoder(self) -> bool:
        """Return whether the whole encoder is frozen."""
        return self.freeze_encoder or "model.encoder" in self.freeze


class TrainingModule(nn.Module):
    """The module that Accelerate wraps. It holds the stock Whisper, which is what is exported."""

    silence: Tensor | None
    half_forward: HalfForward | None = None  # None: the stock model, in Accelerate's precision
    graphs: PassGraphs | None = None  # of training passes

    def __init__(self, whisper: Any, *, freeze_encoder: bool, silence: bool = True) -> None:
        """Create the module.

        Args:
            whisper: a transformers WhisperForConditionalGeneration.
            freeze_encoder: run the encoder without gradients.
            silence: use silence states behind short clips.
        """
        super().__init__()
        self.whisper = whisper
        self.freeze_encoder = freeze_encoder
        # saved with the weights: it was computed from the weights of an earlier update
        self.register_buffer("silence", compute_silence_states(whisper) if silence else None)

    def update_silence_states(self, whisper: Any) -> None:
        """Compute the encoder's silence states again, with the current weights.

        Args:
            whisper: the unsharded model; self.whisper unless that is sharded. Half-precision
                weights are used in its place, if passes are computed from them.
        """
        if self.silence is not None:
            half = self.half_forward
            states = half.compute_silence_states() if half else compute_silence_states(whisper)
            self.silence.copy_(states)

    def forward(
        self,
        features: Tensor,
        decoder_input_ids: Tensor,
        labels: Tensor,
        *,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Return the negative log likelihood of every target token, row by row. Shape: (targets,).

        Positions without a target are removed before the LM head, which has about 51,900 classes.
        The step sums the loss, and divides once by the tokens of all processes.

        Args:
            features: (batch, n_mels, frames).
            decoder_input_ids: (batch, tokens): a prompt, if any, then one start token and the text.
            labels: (batch, tokens), shifted by one token; IGNORE_INDEX where there is no target.
            targets: target_positions(labels), shape (targets,). None computes them, which
                synchronizes a GPU with the host.
        """
        if targets is None:
            targets = target_positions(labels)
        compute = self.graphs if self.graphs is not None and self.training else self.losses
        return compute(Inputs(features, decoder_input_ids, labels, targets))

    def losses(self, inputs: Inputs) -> Tensor:
        """Compute what forward() returns, without CUDA graphs."""
        features, ids, labels, targets = inputs
        logits = (self.half_forward or self._logits)(features, ids, targets, self.silence)
        # sums in half precision are too inaccurate
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return nn.functional.cross_entropy(logits, labels.flatten()[targets], reduction="none")

    def _logits(
        self, features: Tensor, ids: Tensor, targets: Tensor, silence: Tensor | None
    ) -> Tensor:
        """Return the stock model's logits at the targets. Shape: (targets, vocabulary)."""
        set_silence_states(self.whisper, silence)  # an evaluation may have set others
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
            encoded = self.whisper.model.encoder(features)
        states: Tensor = self.whisper.model.decoder(
            input_ids=ids, encoder_hidden_states=encoded[0], use_cache=False
        ).last_hidden_state
        logits: Tensor = self.whisper.proj_out(states.flatten(0, 1)[targets])
        return logits


def prepare_training(whisper: Whisper, config: ModelConfig) -> TrainingModule:
    """Set dropout, gradient checkpointing, freezing and adapters, and wrap the model.

    Raises:
        InputError: a name in model.freeze or model.lora_modules matches nothing, all weights are
            frozen, or the model's config.json sets LayerDrop.
    """
    model = whisper.model
    _refuse_layer_drop(whisper)
    if config.dropout is not None:
        _set_dropout(model, config.dropout)
    if config.gradient_checkpointing:
        # transformers 5.20 renamed it; the old name warns
        renamed = hasattr(model, "activation_checkpointing_enable")
        name = "activation_checkpointing_enable" if renamed else "gradient_checkpointing_enable"
        getattr(model, name)({"use_reentrant": False})
    freeze(model, (*config.freeze, *(("model.encoder",) if config.freeze_encoder else ())))
    if config.lora_rank is not None:
        add_adapters(
            model,
            config.lora_modules,
            rank=config.lora_rank,
            alpha=config.lora_alpha or 2 * config.lora_rank,
            dropout=config.lora_dropout,
        )
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError("all weights are frozen: remove names from model.freeze")
    return TrainingModule(
        model, freeze_encoder=config.frozen_encoder, silence=config.silence_states
    )


def _refuse_layer_drop(whisper: Whisper) -> None:
    """Refuse LayerDrop: passes in half precision and at true length run every layer.

    Raises:
        InputError: the model's config.json sets it.
    """
    for key in ("encoder_layerdrop", "decoder_layerdrop"):
        if rate := getattr(whisper.model.config, key):
            raise InputError(
                f"model {whisper.name!r}: its config.json sets {key}={rate}, which this loop does "
                "not support: set it to 0 there"
            )


def _set_dropout(model: nn.Module, rate: float) -> None:
    """Set the dropout probability of the modules; config.json keeps the published one."""
    for module in model.modules():
        if isinstance(getattr(module, "dropout", None), float | int):
            module.dropout = rate  # type: ignore[assignment]  # modules declare it as a Tensor or Module


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the weights whose names match: model.encoder, *.layers.[01] or *.embed_positions.

    Raises:
        InputError: a pattern matches no weight.
    """
    weights = list(model.named_parameters(remove_duplicate=False))  # the LM head has two names
    for pattern in patterns:
        below = f"{pattern}.*"
        matches = [
            w for name, w in weights if fnmatchcase(name, pattern) or fnmatchcase(name, below)
        ]
        if not matches:
            known = ", ".join(name for name, _ in model.named_modules() if 0 < name.count(".") < 2)
            raise InputError(
                f"model.freeze: {pattern!r} matches no weight; names begin with: {known}"
            )
        for weight in matches:
            weight.requires_grad_(False)
