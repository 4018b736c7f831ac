"""Decoded clips to one padded batch: audio to what the plan says, labels to the longest."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data.audio.augment import UNCHANGED, Augmentation, Mask
from data.batch import IGNORE, Batch, target_positions
from data.labels import LabelEncoder
from data.log_mel import HOP_LENGTH, SAMPLE_RATE
from data.sampling.bucketed_sampler import SampleSpec
from data.utterance import Drop, Utterance


@dataclass(kw_only=True, slots=True)
class Clip:
    """One decoded utterance."""

    utterance: Utterance
    waveform: Tensor  # (samples,) float32 at 16 kHz; silence where decoding failed
    drop: Drop | None = None  # why it has no weight, where decoding failed
    work: float = 0.0  # seconds that decoding and resampling took


@dataclass(kw_only=True, slots=True)
class Sample:
    """One row of a batch."""

    clips: list[Clip]  # said one after another; none: silence of no weight
    draw: SampleSpec

    @property
    def waveform(self) -> Tensor:
        """Return all that is said. Shape: (samples,)."""
        return torch.cat([torch.empty(0), *(clip.waveform for clip in self.clips)])

    @property
    def times(self) -> list[tuple[float, float]]:
        """Return where each clip begins and ends, in seconds."""
        ends = list(accumulate(len(clip.waveform) / SAMPLE_RATE for clip in self.clips))
        return list(zip([0.0, *ends], ends, strict=False))

    @property
    def language(self) -> str:
        """Return Whisper's code of what is said."""
        return next((clip.utterance.language or "" for clip in self.clips), "")

    @property
    def task(self) -> str:
        """Return what the decoder is asked for."""
        return next((clip.utterance.task for clip in self.clips), "transcribe")


class Targets(NamedTuple):
    """A line's labels."""

    context: list[int]  # what was said before: no target
    row: list[int]  # the whole sequence, from the start token to the end token
    shares: list[int]  # targets of each clip, 0 for one without weight


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

    def __call__(self, lines: list[Sample]) -> Batch:
        """Pad, compute features, and lay out the decoder's inputs and targets."""
        started = time.perf_counter()
        features = self.mel(pad([line.waveform for line in lines], lines[0].draw.frames))
        mel_seconds = time.perf_counter() - started
        targets = [self._targets(line) for line in lines]
        inputs, labels = self._shifted(targets)
        clips, draw = [clip for line in lines for clip in line.clips], lines[0].draw
        return Batch(
            ids=[clip.utterance.id for clip in clips],
            languages=[line.language for line in lines],
            tasks=[line.task for line in lines],
            features=features,
            decoder_input_ids=inputs,
            labels=labels,
            targets=target_positions(labels),
            seconds=[0.0 if clip.drop else len(clip.waveform) / SAMPLE_RATE for clip in clips],
            tokens=[count for each in targets for count in each.shares],
            at=draw.at,
            after=draw.after,
            last=draw.last,
            masks=[mask for row, line in enumerate(lines) for mask in self._masks(row, line)],
            drops=[clip.drop for clip in clips if clip.drop is not None],
            work={"decode and resample": sum(clip.work for clip in clips), "mel": mel_seconds},
        )

    def _masks(self, row: int, line: Sample) -> list[Mask]:
        if not line.draw.clips:
            return []
        frames, draw = len(line.waveform) // HOP_LENGTH, line.draw
        return self.augmentation.masks(row, frames, draw.at.epoch, draw.clips[0])

    def _targets(self, line: Sample) -> Targets:
        """Lay out a line's labels. The prefix is the first sound clip's, the end token the last's.

        So the targets of each clip lie together, in the clips' order.
        """
        shares = [0] * len(line.clips)
        if not line.clips:  # the decoder needs something to look at
            return Targets([], [self.encoder.start, self.encoder.end], shares)
        sound = [i for i, clip in enumerate(line.clips) if clip.drop is None]
        spoken = sound or range(len(line.clips))  # shapes stay as planned
        texts = [line.clips[i].utterance.text for i in spoken]
        pieces = self.encoder.pieces(texts, line.language)
        row = self.encoder.wrap(pieces, line.language, line.task)
        held = 0  # tokens of times, in each piece
        if line.draw.timed and len(row) + 2 * len(pieces) <= self.encoder.max_tokens:
            times = [line.times[i] for i in spoken]
            row, held = self.encoder.wrap(pieces, line.language, line.task, times), 2
        for i, piece in zip(sound, pieces, strict=False):
            shares[i] = len(piece) + held
        if sound:
            shares[sound[0]] += len(row) - 2 - sum(shares)  # the start token is no target
            shares[sound[-1]] += 1
        context = []
        if line.draw.prompted:
            prompt, room = line.clips[0].utterance.prompt, self.encoder.max_tokens - len(row)
            context = self.encoder.context(prompt, room)
        return Targets(context, row, shares)

    def _shifted(self, targets: Sequence[Targets]) -> tuple[Tensor, Tensor]:
        """Return decoder inputs and labels, both (batch, tokens): labels are one token ahead."""
        longest = max(len(each.context) + len(each.row) for each in targets) - 1
        inputs = torch.full((len(targets), longest), self.encoder.end)
        labels = torch.full((len(targets), longest), IGNORE)
        for i, (context, row, shares) in enumerate(targets):
            ids, first = [*context, *row], len(context)
            inputs[i, : len(ids) - 1] = torch.tensor(ids[:-1])
            labels[i, first : first + sum(shares)] = torch.tensor(row[1 : 1 + sum(shares)])
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
