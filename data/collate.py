"""Clips to one padded batch: audio to the bucket's edge, labels to the longest."""

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.buckets import Draw
from data.features import HOP_LENGTH, N_FRAMES, SAMPLE_RATE, LogMel
from data.labels import LabelEncoder
from data.utterance import IGNORE, Batch, Drop, Position, Utterance

FULL_WINDOW = (N_FRAMES,)  # the edge that pads to 30 s


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

    def __init__(self, encoder: LabelEncoder, mel: LogMel, edges: Sequence[int]) -> None:
        """Take what turns texts and waveforms into tensors.

        Args:
            encoder: text to token ids.
            mel: waveforms to features.
            edges: lengths to pad to, in frames, ascending; 3000 where the draw says so. Audio
                longer than the last is padded to whole frames.
        """
        self.encoder = encoder
        self.mel = mel
        self.edges = edges

    def __call__(self, clips: list[Clip]) -> Batch:
        """Pad, compute features, and lay out the decoder's inputs and targets."""
        started = time.perf_counter()
        edges = FULL_WINDOW if clips[0].draw.full else self.edges
        features = self.mel(pad([clip.waveform for clip in clips], edges))
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
            after=Position(*draw.after),
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


def pad(waveforms: Sequence[Tensor], edges: Sequence[int]) -> Tensor:
    """Stack waveforms, padded with silence to the first edge that holds them all.

    Args:
        waveforms: each (samples,).
        edges: in frames, ascending.

    Returns:
        Shape (batch, frames * 160).
    """
    frames = -(-max(len(waveform) for waveform in waveforms) // HOP_LENGTH)
    edge = bisect_left(edges, frames)
    samples = (edges[edge] if edge < len(edges) else frames) * HOP_LENGTH
    audio = torch.zeros(len(waveforms), samples)
    for row, waveform in zip(audio, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return audio
