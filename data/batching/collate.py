"""PaddingCollator: decoded samples to one padded Batch with features and labels."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data.audio.augment import NO_AUGMENTATION, Augmentation, Mask
from data.batch import IGNORE_INDEX, Batch, target_positions
from data.labels import LabelEncoder
from data.log_mel import HOP_LENGTH, SAMPLE_RATE
from data.sampling.bucketed_sampler import SampleSpec
from data.utterance import Drop, Utterance


@dataclass(kw_only=True, slots=True)
class Clip:
    """One decoded utterance."""

    utterance: Utterance
    waveform: Tensor  # (samples,) float32 at 16 kHz; silence if decoding failed
    drop: Drop | None = None  # why decoding failed, in which case the clip has no loss
    decode_seconds: float = 0.0  # time to decode and resample


@dataclass(kw_only=True, slots=True)
class Sample:
    """One row of a batch."""

    clips: list[Clip]  # joined one after another; empty: silence without loss
    spec: SampleSpec

    @property
    def waveform(self) -> Tensor:
        """Return the concatenated waveforms. Shape: (samples,)."""
        return torch.cat([torch.empty(0), *(clip.waveform for clip in self.clips)])

    @property
    def times(self) -> list[tuple[float, float]]:
        """Return the start and end of each clip, in seconds."""
        ends = list(accumulate(len(clip.waveform) / SAMPLE_RATE for clip in self.clips))
        return list(zip([0.0, *ends], ends, strict=False))

    @property
    def language(self) -> str:
        """Return Whisper's language code."""
        return next((clip.utterance.language or "" for clip in self.clips), "")

    @property
    def task(self) -> str:
        """Return the task: transcribe or translate."""
        return next((clip.utterance.task for clip in self.clips), "transcribe")


class Targets(NamedTuple):
    """A sample's token ids."""

    prompt: list[int]  # precedes the start token; never a target
    ids: list[int]  # from the start token to the end token
    counts: list[int]  # target tokens of each clip; 0 for a clip without loss


class PaddingCollator:
    """Collates Samples into a Batch. Masks by length, since pad, end and bos are the same token."""

    def __init__(
        self,
        label_encoder: LabelEncoder,
        mel: nn.Module,
        augmentation: Augmentation = NO_AUGMENTATION,
    ) -> None:
        """Store the parts.

        Args:
            label_encoder: encodes transcripts.
            mel: computes features: LogMel, or Identity if a GPU computes them later.
            augmentation: draws masks.
        """
        self.label_encoder = label_encoder
        self.mel = mel
        self.augmentation = augmentation

    def __call__(self, samples: list[Sample]) -> Batch:
        """Pad waveforms, compute features, and build decoder inputs and labels."""
        started = time.perf_counter()
        features = self.mel(
            pad_waveforms([sample.waveform for sample in samples], samples[0].spec.frames)
        )
        mel_seconds = time.perf_counter() - started
        targets = [self._targets(sample) for sample in samples]
        inputs, labels = self._shifted(targets, samples[0].spec.label_length)
        clips, spec = [clip for sample in samples for clip in sample.clips], samples[0].spec
        return Batch(
            ids=[clip.utterance.id for clip in clips],
            languages=[sample.language for sample in samples],
            tasks=[sample.task for sample in samples],
            features=features,
            decoder_input_ids=inputs,
            labels=labels,
            targets=target_positions(labels),
            seconds=[0.0 if clip.drop else len(clip.waveform) / SAMPLE_RATE for clip in clips],
            tokens=[count for target in targets for count in target.counts],
            position=spec.position,
            next_position=spec.next_position,
            is_last=spec.is_last,
            masks=[mask for row, sample in enumerate(samples) for mask in self._masks(row, sample)],
            drops=[clip.drop for clip in clips if clip.drop is not None],
            worker_seconds={
                "decode and resample": sum(clip.decode_seconds for clip in clips),
                "mel": mel_seconds,
            },
        )

    def _masks(self, row: int, sample: Sample) -> list[Mask]:
        if not sample.spec.clips:
            return []
        frames, spec = len(sample.waveform) // HOP_LENGTH, sample.spec
        return self.augmentation.masks(row, frames, spec.position.epoch, spec.clips[0])

    def _targets(self, sample: Sample) -> Targets:
        """Return a sample's token ids, and how many of them are targets of each clip.

        The prefix counts for the first decoded clip and the end token for the last one, so that the
        targets of each clip are contiguous, in the clips' order.
        """
        labels, counts = self.label_encoder, [0] * len(sample.clips)
        if not sample.clips:  # the decoder needs at least one token
            return Targets([], [labels.start_id, labels.end_id], counts)
        decoded = [i for i, clip in enumerate(sample.clips) if clip.drop is None]
        used = decoded or range(len(sample.clips))  # if none was decoded, keep the planned shape
        texts = [sample.clips[i].utterance.text for i in used]
        pieces = labels.encode_texts(texts, sample.language)
        ids = labels.add_special_tokens(pieces, sample.language, sample.task)
        timestamps = 0  # timestamp tokens of each clip
        if sample.spec.with_timestamps and len(ids) + 2 * len(pieces) <= labels.max_tokens:
            times, timestamps = [sample.times[i] for i in used], 2
            ids = labels.add_special_tokens(pieces, sample.language, sample.task, times)
        for i, piece in zip(decoded, pieces, strict=False):
            counts[i] = len(piece) + timestamps
        if decoded:
            counts[decoded[0]] += len(ids) - 2 - sum(counts)  # the start token is not a target
            counts[decoded[-1]] += 1
        prompt = []
        if sample.spec.with_prompt:
            text, available = sample.clips[0].utterance.prompt, labels.max_tokens - len(ids)
            prompt = labels.prompt_tokens(text, available)
        return Targets(prompt, ids, counts)

    def _shifted(self, targets: Sequence[Targets], length: int) -> tuple[Tensor, Tensor]:
        """Return decoder inputs and labels, both (batch, tokens); labels are one token ahead.

        They are padded to `length` tokens, but to no more than the model's decoder positions.
        """
        longest = max(len(target.prompt) + len(target.ids) for target in targets) - 1
        longest = max(longest, min(length, self.label_encoder.max_tokens))
        inputs = torch.full((len(targets), longest), self.label_encoder.end_id)
        labels = torch.full((len(targets), longest), IGNORE_INDEX)
        for i, (prompt, ids, counts) in enumerate(targets):
            inputs[i, : len(prompt) + len(ids) - 1] = torch.tensor([*prompt, *ids[:-1]])
            first, count = len(prompt), sum(counts)
            labels[i, first : first + count] = torch.tensor(ids[1 : 1 + count])
        return inputs, labels


def pad_waveforms(waveforms: Sequence[Tensor], frames: int) -> Tensor:
    """Pad waveforms with silence and stack them. Shape: (batch, frames * 160).

    Args:
        waveforms: each (samples,).
        frames: length to pad to. If a waveform is longer, its length in whole frames.
    """
    longest = -(-max(len(waveform) for waveform in waveforms) // HOP_LENGTH)
    audio = torch.zeros(len(waveforms), max(frames, longest) * HOP_LENGTH)
    for row, waveform in zip(audio, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return audio
