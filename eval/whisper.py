"""Load a Whisper model whose encoder accepts audio of any length up to 30 s."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, WhisperForConditionalGeneration, WhisperProcessor
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE
from transformers.utils import logging as transformers_logging

from data.errors import InputError
from data.labels import START, LabelEncoder
from data.log_mel import FRAMES_PER_POSITION, N_FRAMES
from eval.silence_states import patch_attention


class TrueLengthEncoder(WhisperEncoder):
    """Whisper's encoder for input of any length: it adds only the first position embeddings.

    The parameters are those of WhisperEncoder, so checkpoints stay stock. The idea is icefall's
    (its Whisper recipes). A model must be trained at true length before it can be used so.
    """

    def forward(self, input_features: Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:
        """Encode log-mel features.

        Shapes: (batch, n_mels, frames) → (batch, frames / 2, d_model).
        """
        if input_features.shape[-1] == self.max_source_positions * FRAMES_PER_POSITION:
            return super().forward(input_features, attention_mask, **kwargs)
        hidden = nn.functional.gelu(self.conv1(input_features))
        hidden = nn.functional.gelu(self.conv2(hidden)).permute(0, 2, 1)  # (batch, positions, d)
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        hidden = nn.functional.dropout(hidden, p=self.dropout, training=self.training)
        for layer in self.layers:
            hidden = layer(hidden, None)
        return BaseModelOutput(last_hidden_state=self.layer_norm(hidden))


@dataclass(frozen=True, kw_only=True, slots=True)
class Whisper:
    """A Whisper model, its processor and the name it was loaded from."""

    model: Any  # transformers' WhisperForConditionalGeneration
    processor: Any  # transformers' WhisperProcessor
    name: str  # a name on the Hub, or a folder

    @property
    def multilingual(self) -> bool:
        """Return whether the model has language tokens."""
        flag = getattr(self.model.generation_config, "is_multilingual", None)
        return bool(self.model.config.vocab_size >= 51865 if flag is None else flag)

    @property
    def language(self) -> str | None:
        """Return the code of the only language the model was fine-tuned for; None for any."""
        if not self.multilingual:
            return "en"
        language = getattr(self.model.generation_config, "language", None)
        name = str(language or "").strip("<|>").lower()
        return TO_LANGUAGE_CODE.get(name, name) or None

    @property
    def n_mels(self) -> int:
        """Number of mel bins, 80 or 128."""
        return int(self.model.config.num_mel_bins)

    def labels(self) -> LabelEncoder:
        """Return the LabelEncoder, which turns transcripts into label token ids."""
        return LabelEncoder(
            self.processor.tokenizer,
            max_tokens=self.model.config.max_target_positions,
            multilingual=self.multilingual,
            vocabulary_size=self.model.config.vocab_size,
        )


def load_whisper(name: str, revision: str | None = None) -> Whisper:
    """Load a model and its processor from a folder or the Hub, in float32.

    Raises:
        InputError: the model does not exist, is incomplete, or is not a Whisper model.
    """
    transformers_logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)  # it warns of tied weights at each save
    transformers_logging.disable_progress_bar()
    _check_model_folder(name)
    try:
        processor = WhisperProcessor.from_pretrained(name, revision=revision)
        model_type = AutoConfig.from_pretrained(name, revision=revision).model_type
        if model_type != "whisper":
            raise ValueError(f"its model_type is {model_type}, not whisper")
        model, info = WhisperForConditionalGeneration.from_pretrained(
            name,
            revision=revision,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
        if info["missing_keys"]:  # transformers would initialize them at random
            raise ValueError(f"its weights lack {sorted(info['missing_keys'])[0]} and maybe more")
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"model {name!r} cannot be loaded: {reason}") from error
    _check_model(model, processor, name)
    model.model.encoder.__class__ = TrueLengthEncoder
    patch_attention(model)
    return Whisper(model=model, processor=processor, name=name)


def _check_model(model: Any, processor: Any, name: str) -> None:
    """Check that tokenizer and model belong together, and the length of the encoder's input.

    Raises:
        InputError: they do not, or it is not 30 s.
    """
    start = processor.tokenizer.get_vocab().get(START)
    if start != model.config.decoder_start_token_id:
        raise InputError(
            f"model {name!r}: {START} is token {start} in its tokenizer, and "
            f"{model.config.decoder_start_token_id} in its config: take both from the same "
            "checkpoint"
        )
    if model.config.max_source_positions * FRAMES_PER_POSITION != N_FRAMES:
        raise InputError(
            f"model {name!r}: max_source_positions is {model.config.max_source_positions} in its "
            f"config.json; only models with {N_FRAMES // FRAMES_PER_POSITION} (30 s) are supported"
        )


def _check_model_folder(name: str) -> None:
    """Check that a model folder is complete: transformers would look for the name on the Hub.

    Raises:
        InputError: the folder does not exist, or lacks a file.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise InputError(
                f"model {name!r}: no such folder; set model.name to one, or to a Hub name"
            )
        return
    required = {
        "config.json": ("config.json",),
        "tokenizer": ("tokenizer.json", "vocab.json"),
        "preprocessor": ("preprocessor_config.json", "processor_config.json"),
        "weights": ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"),
    }
    for part, files in required.items():
        if not any((folder / file).is_file() for file in files):
            raise InputError(
                f"model {name!r}: the folder has no {part} ({' or '.join(files)}); "
                "save model and processor into it with save_pretrained()"
            )
