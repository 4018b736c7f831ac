"""The only place where the stages are chained: utterances in, batches out."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.audio import AudioError, load
from data.buckets import BucketedBatchSampler, Draw
from data.collate import Clip, PaddingCollator
from data.config import DataConfig
from data.features import N_FRAMES, SAMPLE_RATE, LogMel
from data.labels import LabelEncoder
from data.screen import drop
from data.utterance import Batch, Position, Utterance


class Clips(Dataset[Clip]):
    """Decodes the clip that a draw asks for; what cannot be decoded is silence of no weight."""

    def __init__(self, utterances: Sequence[Utterance], split: str) -> None:
        """Take the utterances that draws index, and the name of their split."""
        self.utterances = utterances
        self.split = split

    def __getitem__(self, draw: Draw) -> Clip:
        """Return the decoded clip."""
        if draw.clip is None:  # this process is short of clips in this pass
            nobody = replace(self.utterances[0], id="", text="", seconds=1.0)
            return Clip(utterance=nobody, waveform=_silence(nobody), draw=draw)
        utterance = self.utterances[draw.clip]
        started = time.perf_counter()
        try:
            waveform, failed = load(utterance), None
        except AudioError as error:
            waveform = _silence(utterance)
            failed = drop(utterance, self.split, error.reason, error.detail)
        work = time.perf_counter() - started
        return Clip(utterance=utterance, waveform=waveform, draw=draw, drop=failed, work=work)


def train_batches(
    utterances: Sequence[Utterance],
    config: DataConfig,
    encoder: LabelEncoder,
    n_mels: int,
    sampler: BucketedBatchSampler,
) -> DataLoader[Batch]:
    """Chain sampler → clips → padding collator: the passes that the sampler draws, as batches."""
    return _loader(
        Clips(utterances, config.train_split),
        sampler,
        PaddingCollator(encoder, LogMel(n_mels)),
        config,
    )


def eval_batches(
    utterances: Sequence[Utterance],
    config: DataConfig,
    encoder: LabelEncoder,
    n_mels: int,
    batches: Sequence[Sequence[int]],
) -> DataLoader[Batch]:
    """Yield given groups of utterances, padded to 30 s as stock pipelines decode."""
    draws = [
        [Draw(i, 0, Position(), last=True, frames=N_FRAMES) for i in batch] for batch in batches
    ]
    return _loader(
        # without texts: a reference may be too long, or hold special tokens, and still be scored
        Clips([replace(u, text="") for u in utterances], "evaluation"),
        draws,
        PaddingCollator(encoder, LogMel(n_mels)),
        config,
    )


def _loader(
    clips: Clips, batches: Iterable[list[Draw]], collator: PaddingCollator, config: DataConfig
) -> DataLoader[Any]:
    return DataLoader(
        clips,
        batch_sampler=batches,
        collate_fn=collator,
        num_workers=config.workers,
        prefetch_factor=config.prefetch if config.workers else None,
        pin_memory=torch.cuda.is_available(),
    )


def _silence(utterance: Utterance) -> Tensor:
    """Return silence as long as the utterance was said to be: shapes stay as planned."""
    return torch.zeros(max(1, round(utterance.seconds * SAMPLE_RATE)))
