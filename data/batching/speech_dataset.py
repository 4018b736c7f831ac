"""SpeechDataset: decodes and augments the clips of a SampleSpec in a DataLoader worker."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.audio.augment import Augmentation
from data.audio.decode import AudioError
from data.batching.collate import Clip, Sample
from data.log_mel import HOP_LENGTH, frames_of
from data.sampling.bucketed_sampler import SampleSpec
from data.sampling.epoch_plan import Plan
from data.screening.filters import make_drop
from data.utterance import Utterance
from data.worker_crashes import WorkerWatch

Transform = Callable[[Tensor, int, int], Tensor]


def _identity(samples: Tensor, index: int, epoch: int) -> Tensor:
    return samples


class SpeechDataset(Dataset[Sample]):
    """Decodes the clips of a SampleSpec; an undecodable clip becomes silence without loss."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        split: str,
        load: Callable[[Utterance], Tensor],
        watch: WorkerWatch,
        transform: Transform = _identity,
    ) -> None:
        """Store the utterances and how to decode them.

        Args:
            utterances: those that a SampleSpec indexes.
            split: name of their split, for drops.
            load: decodes an utterance.
            watch: records what is being decoded.
            transform: augments a waveform, given its index and the epoch.
        """
        self.utterances = utterances
        self.split = split
        self.load = load
        self.watch = watch
        self.transform = transform

    def __getitem__(self, spec: SampleSpec) -> Sample:
        """Return the decoded sample."""
        return Sample(clips=[self._decode(i, spec.position.epoch) for i in spec.clips], spec=spec)

    def _decode(self, index: int, epoch: int) -> Clip:
        utterance, started = self.utterances[index], time.perf_counter()
        try:
            with self.watch.decoding(index):
                waveform, dropped = self.transform(self.load(utterance), index, epoch), None
        except AudioError as error:
            waveform = torch.empty(0)  # padded with silence to the planned length
            dropped = make_drop(utterance, self.split, error.reason, error.detail)
        return Clip(
            utterance=utterance,
            waveform=waveform,
            drop=dropped,
            decode_seconds=time.perf_counter() - started,
        )


def augment_clip(
    augmentation: Augmentation, plan: Plan, samples: Tensor, index: int, epoch: int
) -> Tensor:
    """Return a clip augmented for an epoch, cut to its planned duration."""
    augmented = augmentation(samples, plan.speed(index, epoch), epoch, index)
    return augmented[: frames_of(plan.duration(index, epoch)) * HOP_LENGTH]
