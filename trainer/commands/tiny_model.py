"""`python -m trainer tiny-model`: create a tiny Whisper with random weights for a corpus.

Its tokenizer is trained on the corpus. The demo and the tests use it; all other code is the same as
for a published Whisper model.
"""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.utils import logging as transformers_logging

from data.config import DataConfig
from data.corpora import read
from data.errors import InputError
from data.labels import END, NO_TIMESTAMPS, START
from data.log_mel import FRAMES_PER_POSITION, N_FRAMES, exact_div

TASKS = ("<|translate|>", "<|transcribe|>")
OTHER_TOKENS = ("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", NO_TIMESTAMPS)
POSITION_SCALE = 2.0  # of the encoder's sinusoids
POSITIONS = exact_div(N_FRAMES, FRAMES_PER_POSITION)  # 1500, of the encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyModelConfig:
    """Make a very small, untrained Whisper for a corpus."""

    out: str  # The folder to write. It must not exist.
    corpus: tuple[str, ...]  # Corpora whose texts and languages the tokenizer is made for.
    split: str = "train"  # Split of the corpora.
    vocabulary: int = 312  # Text tokens of the tokenizer: 256 bytes and frequent pieces.
    d_model: int = 128  # Width of the model.
    encoder_layers: int = 3  # Layers of the encoder.
    decoder_layers: int = 1  # Layers of the decoder.
    heads: int = 4  # Attention heads of each layer.
    # Standard deviation of the initial weights. At this width Whisper's 0.02 makes the audio too
    # weak beside the position embeddings.
    init_std: float = 0.09
    n_mels: int = 80  # Mel channels.
    seed: int = 0  # Seed of the initial weights.


def make_tiny_model(config: TinyModelConfig) -> None:
    """Write a model with its tokenizer, feature extractor and generation config.

    Raises:
        InputError: the folder exists, or the corpus cannot be read.
    """
    out = Path(config.out)
    if out.exists():
        raise InputError(f"{out}: exists already; name another folder with --out=, or remove it")
    rows = list(read(DataConfig(corpus=config.corpus), config.split))
    languages = sorted({row.language for row in rows if row.language})
    tokenizer = train_tokenizer((row.text for row in rows), languages, config.vocabulary)
    torch.manual_seed(config.seed)
    model = WhisperForConditionalGeneration(_model_config(config, tokenizer))
    with torch.no_grad():  # a model this small then learns to attend to the audio sooner
        model.model.encoder.embed_positions.weight.mul_(POSITION_SCALE)
    model.generation_config = generation_config(tokenizer, languages)
    extractor = WhisperFeatureExtractor(feature_size=config.n_mels)
    processor = WhisperProcessor(feature_extractor=extractor, tokenizer=tokenizer)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(out)
    processor.save_pretrained(out)


def train_tokenizer(texts: Iterable[str], languages: Sequence[str], vocabulary: int) -> Any:
    """Train a WhisperTokenizer with byte-level BPE, and add Whisper's special tokens.

    Args:
        texts: to train on.
        languages: Whisper's codes.
        vocabulary: number of tokens without special ones.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens(
        [END, START, *(f"<|{code}|>" for code in languages), *TASKS, *OTHER_TOKENS]
    )
    with tempfile.TemporaryDirectory() as folder:
        bpe.save(str(Path(folder) / "tokenizer.json"))
        return WhisperTokenizer.from_pretrained(
            folder, bos_token=END, eos_token=END, unk_token=END, pad_token=END
        )


def _model_config(config: TinyModelConfig, tokenizer: Any) -> WhisperConfig:
    """Return a WhisperConfig with explicit ids: the defaults are those of English-only models."""
    return WhisperConfig(
        vocab_size=len(tokenizer.get_vocab()),
        num_mel_bins=config.n_mels,
        d_model=config.d_model,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        encoder_attention_heads=config.heads,
        decoder_attention_heads=config.heads,
        encoder_ffn_dim=4 * config.d_model,
        decoder_ffn_dim=4 * config.d_model,
        init_std=config.init_std,
        max_source_positions=POSITIONS,
        max_target_positions=448,
        **special_ids(tokenizer),
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def special_ids(tokenizer: Any) -> dict[str, int]:
    """Return bos, eos, pad and decoder start ids, by transformers' names."""
    ids = tokenizer.get_vocab()
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), ids[END])
    return {**ends, "decoder_start_token_id": ids[START]}


def generation_config(tokenizer: Any, languages: Sequence[str]) -> GenerationConfig:
    """Return the generation config of a model for these languages."""
    ids = tokenizer.get_vocab()
    return GenerationConfig(
        **special_ids(tokenizer),
        no_timestamps_token_id=ids[NO_TIMESTAMPS],
        prev_sot_token_id=ids["<|startofprev|>"],
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": ids[f"<|{code}|>"] for code in languages},
        task_to_id={"translate": ids[TASKS[0]], "transcribe": ids[TASKS[1]]},
        max_length=448,
        max_initial_timestamp_index=50,
        return_timestamps=False,
    )
