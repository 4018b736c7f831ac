"""What a worker makes of a draw: its clips, decoded, and as the epoch hears them."""

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
from data.screening.filters import drop
from data.utterance import Utterance
from data.worker_pool import WorkerWatch

Change = Callable[[Tensor, int, int], Tensor]


def _unchanged(samples: Tensor, index: int, epoch: int) -> Tensor:
    return samples


class SpeechDataset(Dataset[Sample]):
    """Decodes the clips that a draw asks for; what cannot be decoded is silence of no weight."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        split: str,
        hear: Callable[[Utterance], Tensor],
        watch: WorkerWatch,
        change: Change = _unchanged,
    ) -> None:
        """Take the utterances that draws index, the name of their split, and how to decode one.

        Args:
            utterances: what draws index.
            split: their name.
            hear: decodes one.
            watch: notes what is decoded.
            change: makes of one's samples, its index and an epoch what that epoch hears.
        """
        self.utterances = utterances
        self.split = split
        self.hear = hear
        self.watch = watch
        self.change = change

    def __getitem__(self, draw: SampleSpec) -> Sample:
        """Return the decoded row."""
        return Sample(clips=[self._decode(i, draw.at.epoch) for i in draw.clips], draw=draw)

    def _decode(self, index: int, epoch: int) -> Clip:
        utterance, started = self.utterances[index], time.perf_counter()
        try:
            with self.watch.decoding(index):
                waveform, failed = self.change(self.hear(utterance), index, epoch), None
        except AudioError as error:
            waveform = torch.empty(0)  # its row is silence, as long as planned
            failed = drop(utterance, self.split, error.reason, error.detail)
        work = time.perf_counter() - started
        return Clip(utterance=utterance, waveform=waveform, drop=failed, work=work)


def as_drawn(
    augmentation: Augmentation, plan: Plan, samples: Tensor, index: int, epoch: int
) -> Tensor:
    """Return a clip as an epoch hears it, no longer than the plan says."""
    changed = augmentation(samples, plan.speed(index, epoch), epoch, index)
    return changed[: frames_of(plan.heard(index, epoch)) * HOP_LENGTH]
