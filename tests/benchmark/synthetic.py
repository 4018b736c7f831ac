"""Speed needs no speech: shaped noise of Common Voice's lengths, and random weights of any size."""

from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES
from transformers.utils import logging as transformers_logging

from data.atomic_files import read_jsonl, write_jsonl
from trainer.commands.tiny_model import POSITIONS, generation_config, special_ids, train_tokenizer

# name: width, encoder and decoder layers, heads, mel bins, vocabulary: OpenAI's, but for nano,
# which is for trying out a program
SHAPES = {
    "nano": (64, 2, 2, 1, 80, 1024),
    "tiny": (384, 4, 4, 6, 80, 51865),
    "base": (512, 6, 6, 8, 80, 51865),
    "small": (768, 12, 12, 12, 80, 51865),
    "medium": (1024, 24, 24, 16, 80, 51865),
    "large-v3": (1280, 32, 32, 20, 128, 51866),
    "large-v3-turbo": (1280, 32, 4, 20, 128, 51866),
}
# of the logarithm of a clip's seconds: 1.5 to 11 s, mean 5.0, as Common Voice's clips have it
MEDIAN, SPREAD, SHORTEST, LONGEST = 4.7, 0.37, 1.5, 11.0
WORDS_PER_SECOND = 4  # a token each: what speech has of them
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATES = {"flac": 16_000, "mp3": 48_000}


def make_corpus(folder: Path, splits: dict[str, int], *, suffix: str, seed: int = 0) -> None:
    """Write clips of noise whose loudness rises and falls about as syllables do, with words."""
    rng = np.random.default_rng(seed)
    for split, clips in splits.items():
        (folder / split).mkdir(parents=True)
        rows = []
        for number, seconds in enumerate(draw_seconds(rng, clips)):
            path = f"{split}/{number:06d}.{suffix}"
            samples = round(seconds * RATES[suffix])
            syllables = np.sin(2 * np.pi * 2 * np.arange(samples) / RATES[suffix]) ** 2
            noise = 0.1 * syllables * rng.standard_normal(samples)
            soundfile.write(folder / path, noise.astype(np.float32), RATES[suffix])
            text = " ".join(rng.choice(WORDS, round(seconds * WORDS_PER_SECOND)))
            rows.append({"id": path, "path": path, "text": text})
        write_jsonl(folder / f"{split}.jsonl", rows)


def draw_seconds(rng: np.random.Generator, clips: int) -> list[float]:
    """Return lengths from a log-normal histogram; what falls outside of its bounds is redrawn."""
    seconds: list[float] = []
    while len(seconds) < clips:
        drawn = MEDIAN * np.exp(SPREAD * rng.standard_normal(clips))
        seconds += [float(s) for s in drawn if SHORTEST <= s <= LONGEST]
    return seconds[:clips]


def make_model(size: str, corpus: Path, out: Path) -> None:
    """Write a Whisper of a published shape with random weights, and a tokenizer for the corpus."""
    texts = (row["text"] for row in read_jsonl(corpus / "train.jsonl"))
    tokenizer = train_tokenizer(texts, list(LANGUAGES), vocabulary=312)
    torch.manual_seed(0)
    # a GPU draws the 1.5 billion weights of large-v3 at once
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = WhisperForConditionalGeneration(config_of(size, special_ids(tokenizer)))
    model.generation_config = generation_config(tokenizer, list(LANGUAGES))
    transformers_logging.disable_progress_bar()
    model.save_pretrained(out)
    extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # it is others' to measure
    WhisperProcessor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(out)


def config_of(size: str, known: dict[str, int]) -> WhisperConfig:
    """Return a config with explicit ids: its defaults are the English-only model's.

    The vocabulary is as large as Whisper's, though the tokenizer uses a few hundred of it: the LM
    head's share of the work is in its size.
    """
    width, encoder_layers, decoder_layers, heads, n_mels, vocabulary = SHAPES[size]
    return WhisperConfig(
        **known,
        vocab_size=vocabulary,
        num_mel_bins=n_mels,
        d_model=width,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        max_source_positions=POSITIONS,
        max_target_positions=448,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
