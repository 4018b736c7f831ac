"""Decoded clips to one padded batch: audio to what the plan says, labels to the longest."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.augment import UNCHANGED, Augmentation, Mask
from data.buckets import Draw
from data.features import HOP_LENGTH, SAMPLE_RATE
from data.labels import LabelEncoder
from data.utterance import IGNORE, Batch, Drop, Utterance


@dataclass(kw_only=True, slots=True)
class Clip:
    """One decoded utterance."""

    utterance: Utterance
    waveform: Tensor  # (samples,) float32 at 16 kHz; silence where decoding failed
    drop: Drop | None = None  # why it has no weight, where decoding failed
    work: float = 0.0  # seconds that decoding and resampling took


@dataclass(kw_only=True, slots=True)
class Line:
    """One row of a batch."""

    clips: list[Clip]  # said one after another; none: silence of no weight
    draw: Draw

    @property
    def waveform(self) -> Tensor:
        """Return all that is said. Shape: (samples,)."""
        return torch.cat([torch.empty(0), *(clip.waveform for clip in self.clips)])

    @property
    def language(self) -> str:
        """Return Whisper's code of what is said."""
        return next((clip.utterance.language or "" for clip in self.clips), "")

    @property
    def task(self) -> str:
        """Return what the decoder is asked for."""
        return next((clip.utterance.task for clip in self.clips), "transcribe")


class PaddingCollator:
    """Makes a Batch of lines. Masks come from lengths: pad, end and bos are one token here."""

    def __init__(
        self, encoder: LabelEncoder, mel: nn.Module, augmentation: Augmentation = UNCHANGED
    ) -> None:
        """Take what makes labels of texts, features of waveforms, and masks of features.

        Args:
            encoder: makes labels.
            mel: makes features: LogMel, or Identity where a GPU does.
            augmentation: draws masks.
        """
        self.encoder = encoder
        self.mel = mel
        self.augmentation = augmentation

    def __call__(self, lines: list[Line]) -> Batch:
        """Pad, compute features, and lay out the decoder's inputs and targets."""
        started = time.perf_counter()
        features = self.mel(pad([line.waveform for line in lines], lines[0].draw.frames))
        mel_seconds = time.perf_counter() - started
        rows, tokens = zip(*map(self._targets, lines), strict=True)
        inputs, labels = self._shifted(rows, [sum(each) for each in tokens])
        clips, draw = [clip for line in lines for clip in line.clips], lines[0].draw
        return Batch(
            ids=[clip.utterance.id for clip in clips],
            languages=[line.language for line in lines],
            tasks=[line.task for line in lines],
            features=features,
            decoder_input_ids=inputs,
            labels=labels,
            seconds=[0.0 if clip.drop else len(clip.waveform) / SAMPLE_RATE for clip in clips],
            tokens=[count for each in tokens for count in each],
            at=draw.at,
            after=draw.after,
            last=draw.last,
            repair=draw.repair,
            masks=[mask for row, line in enumerate(lines) for mask in self._masks(row, line)],
            drops=[clip.drop for clip in clips if clip.drop is not None],
            work={"decode and resample": sum(clip.work for clip in clips), "mel": mel_seconds},
        )

    def _masks(self, row: int, line: Line) -> list[Mask]:
        if not line.clips:
            return []
        frames, draw = len(line.waveform) // HOP_LENGTH, line.draw
        return self.augmentation.masks(row, frames, draw.at.epoch, draw.clips[0])

    def _targets(self, line: Line) -> tuple[list[int], list[int]]:
        """Return a line's whole sequence, and each clip's share of its targets, 0 without weight.

        Prefix and end token are the first sound clip's: the start token is no target.
        """
        shares = [0] * len(line.clips)
        if not line.clips:  # the decoder needs something to look at
            return [self.encoder.start, self.encoder.end], shares
        sound = [i for i, clip in enumerate(line.clips) if clip.drop is None]
        spoken = sound or range(len(line.clips))  # shapes stay as planned
        texts = [line.clips[i].utterance.text for i in spoken]
        pieces = self.encoder.pieces(texts, line.language)
        row = self.encoder.wrap(pieces, line.language, line.task)
        for i, piece in zip(sound, pieces, strict=False):
            shares[i] = len(piece)
        if sound:
            shares[sound[0]] += len(row) - 1 - sum(map(len, pieces))
        return row, shares

    def _shifted(
        self, rows: Sequence[Sequence[int]], targets: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return decoder inputs and labels, both (batch, tokens): labels are one token ahead."""
        longest = max(len(row) for row in rows) - 1
        inputs = torch.full((len(rows), longest), self.encoder.end)
        labels = torch.full((len(rows), longest), IGNORE)
        for i, (row, count) in enumerate(zip(rows, targets, strict=True)):
            inputs[i, : len(row) - 1] = torch.tensor(row[:-1])
            labels[i, :count] = torch.tensor(row[1 : 1 + count])
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
