"""The data loaders of training and evaluation: from utterances to batches on the device."""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.audio.augment import NO_AUGMENTATION, Augmentation, mask_features
from data.audio.decode import load_audible_audio, load_audio
from data.batch import Batch, Position, Shape, target_positions
from data.batching.collate import PaddingCollator, pad_waveforms
from data.batching.speech_dataset import SpeechDataset, augment_clip
from data.config import DataConfig
from data.labels import LabelEncoder
from data.lazy_manifest import indices_of
from data.log_mel import N_FRAMES, LogMel
from data.sampling.bucketed_sampler import BucketedBatchSampler, SampleSpec
from data.sampling.padded_length import evaluation_frames
from data.utterance import Utterance
from data.worker_crashes import KILLS, WorkerWatch, resilient_batches

CPU = torch.device("cpu")
TRAIN_DECODE_SECONDS = 10.0  # CPU time that decoding a training clip may take; 0.1 is usual
Batches = Generator[Batch, None, None]


class BatchPreparer:
    """Turns decoded samples into batches: collates in the workers, finishes on the device.

    On a GPU, features are computed there: a whole batch takes less time than one clip in a worker,
    and a waveform is half their size. On a CPU the workers compute them while the model trains.
    """

    def __init__(
        self,
        labels: LabelEncoder,
        n_mels: int,
        device: torch.device = CPU,
        augmentation: Augmentation = NO_AUGMENTATION,
    ) -> None:
        """Build the feature extractor and the collator.

        Args:
            labels: encodes transcripts.
            n_mels: mel channels of the model's features.
            device: that batches are moved to.
            augmentation: of training clips.
        """
        mel = LogMel(n_mels)
        self.augmentation = augmentation
        self.device = device
        self._mel = mel.to(device) if device.type == "cuda" else None
        self.collator = PaddingCollator(
            labels, mel if self._mel is None else nn.Identity(), augmentation
        )

    def prepare(self, batch: Batch) -> Batch:
        """Move a batch to the device, compute missing features there, and apply masks."""
        batch.to(self.device)
        if self._mel is not None:
            batch.features = self._mel(batch.features)
        mask_features(batch.features, batch.masks)
        return batch


class TrainLoader:
    """Yields the training batches of one process, from any position; can be restarted."""

    def __init__(
        self,
        sampler: BucketedBatchSampler,
        batches: Callable[[Iterable[list[SampleSpec]]], Batches],
    ) -> None:
        """Store the sampler and the function that turns its output into batches."""
        self._sampler = sampler
        self._batches = batches
        self._running: Batches | None = None

    def start(
        self, position: Position, updates: int, skipped: Collection[Position] = ()
    ) -> Iterator[Batch]:
        """Yield the batches of some updates from a position on; end an earlier iteration.

        Args:
            position: of the first update.
            updates: number of updates.
            skipped: updates that are neither drawn nor counted.
        """
        self.close()
        self._sampler.start, self._sampler.updates = position, updates
        self._sampler.skipped = skipped
        self._running = self._batches(self._sampler)
        return self._running

    @property
    def largest(self) -> Shape:
        """Return the shape of the forward pass that takes the most memory."""
        return self._sampler.largest()

    def shrink(self, seconds: float) -> None:
        """Limit the padded audio of later forward passes, in seconds; the plan does not change."""
        self._sampler.config = replace(self._sampler.config, max_seconds_per_forward=seconds)

    def close(self) -> None:
        """Stop the workers."""
        if self._running is not None:
            self._running.close()


def train_batches(
    utterances: Sequence[Utterance],
    config: DataConfig,
    preparer: BatchPreparer,
    sampler: BucketedBatchSampler,
    fatal_ids: Iterable[str] = (),
) -> TrainLoader:
    """Chain sampler → dataset → collator → device for training.

    Args:
        utterances: those that the sampler's plan was made from.
        config: number of workers, and of batches that they prefetch.
        preparer: computes labels and features.
        sampler: yields this process's forward passes; start() sets its start and its updates.
        fatal_ids: utterances that are never decoded, since they crashed a decoder before.
    """
    watch = WorkerWatch(partial(_audio_at, utterances), config.workers, TRAIN_DECODE_SECONDS)
    if fatal := set(fatal_ids):  # skipped without any: there may be millions of utterances
        watch.bad_clips = dict.fromkeys(
            indices_of(utterances, fatal), (KILLS, "in an earlier start")
        )
    transform = partial(augment_clip, preparer.augmentation, sampler.plan)
    dataset = SpeechDataset(utterances, config.train_split, load_audible_audio, watch, transform)
    return TrainLoader(sampler, lambda specs: _batches(specs, dataset, preparer, config))


def eval_batches(
    utterances: Sequence[Utterance],
    config: DataConfig,
    preparer: BatchPreparer,
    batches: Sequence[Sequence[int]],
    *,
    true_length: bool = False,
    load: Callable[[Utterance], Tensor] = load_audio,
) -> Iterator[Batch]:
    """Yield the batches of given groups of utterances, without augmentation.

    Args:
        utterances: those that the groups index.
        config: number of workers, and of batches that they prefetch.
        preparer: computes the decoder's prefix and features.
        batches: groups of indices.
        true_length: pad to each group's longest clip instead of 30 s, as stock pipelines do.
        load: returns an utterance's waveform.
    """
    specs = []
    for batch in batches:
        frames = _frames_of([utterances[i] for i in batch], true_length=true_length)
        specs.append(
            [SampleSpec((i,), Position(), Position(), is_last=True, frames=frames) for i in batch]
        )
    watch = WorkerWatch(partial(_audio_at, utterances), config.workers)
    dataset = SpeechDataset(utterances, "evaluation", load, watch)
    return _batches(specs, dataset, preparer, config)


def unlabelled_batch(
    utterances: Sequence[Utterance], waveforms: Sequence[Tensor], mel: LogMel, *, true_length: bool
) -> Batch:
    """Return a batch of waveforms that have no transcripts: padding and features, as above.

    Args:
        utterances: with their durations.
        waveforms: of each utterance, shape (samples,).
        mel: computes features, on the device of the batch.
        true_length: pad to the longest clip instead of 30 s.
    """
    frames = _frames_of(utterances, true_length=true_length)
    no_tokens = torch.empty(len(utterances), 0, dtype=torch.long)
    return Batch(
        ids=[u.id for u in utterances],
        languages=[u.language or "" for u in utterances],
        tasks=[u.task for u in utterances],
        features=mel(pad_waveforms(waveforms, frames).to(mel.window.device)),
        decoder_input_ids=no_tokens,
        labels=no_tokens,
        targets=target_positions(no_tokens),
        seconds=[u.seconds for u in utterances],
        tokens=[0] * len(utterances),
        position=Position(),
        next_position=Position(),
        is_last=True,
    )


def _frames_of(utterances: Sequence[Utterance], *, true_length: bool) -> int:
    """Return the padded length of an evaluation batch, in frames."""
    return evaluation_frames(max(u.seconds for u in utterances)) if true_length else N_FRAMES


def _batches(
    specs: Iterable[list[SampleSpec]],
    dataset: SpeechDataset,
    preparer: BatchPreparer,
    config: DataConfig,
) -> Batches:
    make = partial(
        DataLoader,
        dataset,
        collate_fn=preparer.collator,
        num_workers=config.workers,
        prefetch_factor=config.prefetch if config.workers else None,
        pin_memory=preparer.device.type == "cuda",
    )
    with closing(resilient_batches(specs, make, dataset.watch)) as batches:
        yield from map(preparer.prepare, batches)


def _audio_at(utterances: Sequence[Utterance], index: int) -> str:
    return utterances[index].audio
