"""Clips to one padded batch: audio to the bucket's edge, labels to the longest."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.buckets import Draw
from data.features import HOP_LENGTH, SAMPLE_RATE, LogMel
from data.labels import LabelEncoder
from data.utterance import IGNORE, Batch, Drop, Utterance


@dataclass(kw_only=True, slots=True)
class Clip:
    """One decoded utterance."""

    utterance: Utterance
    waveform: Tensor  # (samples,) float32 at 16 kHz; silence where it has no weight
    draw: Draw
    drop: Drop | None = None  # why it has no weight, where decoding failed
    work: float = 0.0  # seconds that decoding and resampling took

    @property
    def weight(self) -> bool:
        """Tell whether the clip counts in the loss."""
        return self.drop is None and self.draw.clip is not None


class PaddingCollator:
    """Makes a Batch of clips. Masks come from lengths: pad, end and bos are one token here."""

    def __init__(self, encoder: LabelEncoder, mel: LogMel) -> None:
        """Take what turns texts and waveforms into tensors."""
        self.encoder = encoder
        self.mel = mel

    def __call__(self, clips: list[Clip]) -> Batch:
        """Pad, compute features, and lay out the decoder's inputs and targets."""
        started = time.perf_counter()
        features = self.mel(pad([clip.waveform for clip in clips], clips[0].draw.frames))
        mel_seconds = time.perf_counter() - started
        inputs, labels = self._targets(clips)
        draw = clips[0].draw
        return Batch(
            ids=[clip.utterance.id for clip in clips],
            languages=[clip.utterance.language or "" for clip in clips],
            features=features,
            decoder_input_ids=inputs,
            labels=labels,
            seconds=[len(clip.waveform) / SAMPLE_RATE if clip.weight else 0.0 for clip in clips],
            tokens=[int(row) for row in (labels != IGNORE).sum(dim=1)],
            at=draw.at,
            after=draw.after,
            last=draw.last,
            drops=[clip.drop for clip in clips if clip.drop is not None],
            work={"decode and resample": sum(clip.work for clip in clips), "mel": mel_seconds},
        )

    def _targets(self, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        """Return decoder inputs and labels, both (batch, tokens): labels are one token ahead."""
        rows = [self.encoder.encode(c.utterance.text, c.utterance.language or "") for c in clips]
        longest = max(len(row) for row in rows) - 1
        end = rows[0][-1]
        inputs = torch.full((len(rows), longest), end)
        labels = torch.full((len(rows), longest), IGNORE)
        for i, (row, clip) in enumerate(zip(rows, clips, strict=True)):
            inputs[i, : len(row) - 1] = torch.tensor(row[:-1])
            if clip.weight:
                labels[i, : len(row) - 1] = torch.tensor(row[1:])
        return inputs, labels


def pad(waveforms: Sequence[Tensor], frames: int) -> Tensor:
    """Stack waveforms, padded with silence. Shape: (batch, frames * 160).

    Args:
        waveforms: each (samples,).
        frames: to pad to; where one is longer, to whole frames of the longest.
    """
    longest = -(-max(len(waveform) for waveform in waveforms) // HOP_LENGTH)
    audio = torch.zeros(len(waveforms), max(frames, longest) * HOP_LENGTH)
    for row, waveform in zip(audio, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return audio
