"""A Whisper with random weights, made on the device, and batches of noise for it.

Nothing is read from disk: a large model's weights would take longer to load than to measure.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the other benchmarks
sys.path.insert(1, str(Path(__file__).resolve().parents[3]))

import data  # noqa: F401 - makes torchaudio importable; transformers imports it

# isort: split

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from synthetic import WORDS, WORDS_PER_SECOND, config_of
from transformers import (
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from data.batch import Batch, Position
from data.batching.collate import Clip, Sample
from data.dataloader import BatchPreparer
from data.log_mel import SAMPLE_RATE
from data.sampling.bucketed_sampler import SampleSpec
from data.sampling.padded_length import padded_frames
from data.utterance import Drop, Utterance
from eval.device import set_up_cuda
from eval.silence_states import patch_attention
from eval.whisper import TrueLengthEncoder, Whisper
from trainer.commands.tiny_model import generation_config, special_ids, train_tokenizer


def random_whisper(size: str, device: torch.device) -> Whisper:
    """Return a model of a published shape, as load_whisper() would return it.

    Args:
        size: one of synthetic.SHAPES.
        device: where its weights are made.
    """
    tokenizer = train_tokenizer([" ".join(WORDS)], list(LANGUAGES), vocabulary=312)
    config = config_of(size, special_ids(tokenizer))
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = WhisperForConditionalGeneration(config)
    model.generation_config = generation_config(tokenizer, list(LANGUAGES))
    model.model.encoder.__class__ = TrueLengthEncoder
    patch_attention(model)
    extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    processor = WhisperProcessor(feature_extractor=extractor, tokenizer=tokenizer)
    return Whisper(model=model.to(device), processor=processor, name=size)


def noise_batch(
    whisper: Whisper,
    device: torch.device,
    rows: int,
    seconds: float,
    *,
    words: int | None = None,
    failed: bool = False,
) -> Batch:
    """Return a pass of clips of one length, made by the stages that training uses.

    Args:
        whisper: has the tokenizer and the number of mel bins.
        device: where the batch goes.
        rows: clips.
        seconds: of each clip.
        words: said in each clip; None: as many as speech has.
        failed: whether decoding failed in all of them, so that none has a target.
    """
    stages = BatchPreparer(whisper.labels(), whisper.n_mels, device)
    generator = torch.Generator().manual_seed(rows)
    count = max(1, round(seconds * WORDS_PER_SECOND)) if words is None else words
    draw = SampleSpec((), Position(), Position(0, 1), is_last=True, frames=padded_frames(seconds))
    lines = []
    for row in range(rows):
        text = " ".join(WORDS[(row + i) % len(WORDS)] for i in range(count))
        clip = Clip(
            utterance=Utterance(
                id=str(row), audio="", text=text, language="en", seconds=seconds, tokens=count
            ),
            waveform=0.1 * torch.randn(round(seconds * SAMPLE_RATE), generator=generator),
        )
        if failed:
            clip.drop = Drop(split="train", id=str(row), audio="", reason="unreadable")
        lines.append(Sample(clips=[clip], spec=draw))
    return stages.prepare(stages.collator(lines))


def fresh_accelerator(device: torch.device, precision: str) -> Accelerator:
    """Return an Accelerator of this precision; a process otherwise keeps the first one's.

    A GPU is set up as for training: cuDNN's attention is off.
    """
    set_up_cuda()
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu")


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize()
