"""The only place where the stages are chained: utterances in, batches out."""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.audio.augment import UNCHANGED, Augmentation, mask_features
from data.audio.decode import load, load_audible
from data.batch import Batch, Position, Shape, target_positions
from data.batching.collate import PaddingCollator, pad
from data.batching.speech_dataset import SpeechDataset, as_drawn
from data.config import DataConfig
from data.labels import LabelEncoder
from data.lazy_manifest import find
from data.log_mel import N_FRAMES, LogMel
from data.sampling.bucketed_sampler import BucketedBatchSampler, SampleSpec
from data.sampling.epoch_plan import edge_of
from data.utterance import Utterance
from data.worker_pool import KILLS, WorkerWatch, survive

CPU = torch.device("cpu")
CLIP_SECONDS = 10.0  # of computing that a clip to train on may take to decode: 0.1 is usual
Batches = Generator[Batch, None, None]


class BatchPreparer:
    """What is done to decoded lines: in a worker, and on the device.

    A GPU computes features of a whole batch in less time than a worker those of a clip, and a
    waveform is half their size; on a CPU the workers do it while the model trains.
    """

    def __init__(
        self,
        encoder: LabelEncoder,
        n_mels: int,
        device: torch.device = CPU,
        augmentation: Augmentation = UNCHANGED,
    ) -> None:
        """Take what makes labels, the channels of the model's features, and where batches go.

        Args:
            encoder: makes labels.
            n_mels: channels of the model's features.
            device: where batches go.
            augmentation: of clips to train on.
        """
        mel = LogMel(n_mels)
        self.augmentation = augmentation
        self._device = device
        self._mel = mel.to(device) if device.type == "cuda" else None
        self.collator = PaddingCollator(
            encoder, mel if self._mel is None else nn.Identity(), augmentation
        )

    def finish(self, batch: Batch) -> Batch:
        """Move a batch to the device, and see that it has features."""
        batch.to(self._device)
        if self._mel is not None:
            batch.features = self._mel(batch.features)
        mask_features(batch.features, batch.masks)
        return batch


class TrainLoader:
    """The passes of training on one process: from any position on, and as often as asked."""

    def __init__(
        self,
        sampler: BucketedBatchSampler,
        batches: Callable[[Iterable[list[SampleSpec]]], Batches],
    ) -> None:
        """Take what draws passes, and what makes batches of them."""
        self._sampler = sampler
        self._batches = batches
        self._running: Batches | None = None

    def start(
        self, at: Position, updates: int, passed_over: Collection[Position] = ()
    ) -> Iterator[Batch]:
        """Yield the passes of so many updates from a position on; what was started before ends.

        Args:
            at: where to begin.
            updates: how many to draw.
            passed_over: updates that are not drawn, and not counted.
        """
        self.close()
        self._sampler.start, self._sampler.updates = at, updates
        self._sampler.passed_over = passed_over
        self._running = self._batches(self._sampler)
        return self._running

    @property
    def worst(self) -> Shape:
        """Return the pass that takes the most memory."""
        return self._sampler.worst()

    def shrink(self, seconds: float) -> None:
        """Cut later passes so that none holds more padded audio than this; the plan stays."""
        self._sampler.config = replace(self._sampler.config, max_seconds_per_forward=seconds)

    def close(self) -> None:
        """Send the workers home."""
        if self._running is not None:
            self._running.close()


def train_batches(
    utterances: Sequence[Utterance],
    config: DataConfig,
    stages: BatchPreparer,
    sampler: BucketedBatchSampler,
    lethal: Iterable[str] = (),
) -> TrainLoader:
    """Chain sampler → lines → padding collator → device.

    Args:
        utterances: what the sampler's plan was made of.
        config: how many workers, and how far ahead they work.
        stages: make labels and features.
        sampler: says which passes this process makes; start() sets its start and its number.
        lethal: ids of utterances that are never decoded: they killed a decoder before.
    """
    watch = WorkerWatch(partial(_audio_of, utterances), config.workers, CLIP_SECONDS)
    if known := set(lethal):  # else none of perhaps millions is looked at
        watch.blamed = dict.fromkeys(find(utterances, known), (KILLS, "in an earlier start"))
    change = partial(as_drawn, stages.augmentation, sampler.plan)
    lines = SpeechDataset(utterances, config.train_split, load_audible, watch, change)
    return TrainLoader(sampler, lambda draws: _batches(draws, lines, stages, config))


def eval_batches(
    utterances: Sequence[Utterance],
    config: DataConfig,
    stages: BatchPreparer,
    batches: Sequence[Sequence[int]],
    *,
    true_length: bool = False,
    hear: Callable[[Utterance], Tensor] = load,
) -> Iterator[Batch]:
    """Yield given groups of utterances: padded to 30 s as stock pipelines decode, or to a bucket.

    Args:
        utterances: what groups index.
        config: how many workers, and how far ahead they work.
        stages: make the decoder's prefix and features.
        batches: groups of indices.
        true_length: whether to pad to each group's longest only.
        hear: returns an utterance's samples.
    """
    draws = []
    for batch in batches:
        frames = _padded_frames([utterances[i] for i in batch], true_length=true_length)
        draws.append(
            [SampleSpec((i,), Position(), Position(), last=True, frames=frames) for i in batch]
        )
    watch = WorkerWatch(partial(_audio_of, utterances), config.workers)
    lines = SpeechDataset(utterances, "evaluation", hear, watch)
    return _batches(draws, lines, stages, config)


def unlabelled_batch(
    utterances: Sequence[Utterance], waveforms: Sequence[Tensor], mel: LogMel, *, true_length: bool
) -> Batch:
    """Chain the same stages for audio in memory that has no text: padding → features → a batch.

    Args:
        utterances: with their lengths.
        waveforms: their samples, each (samples,).
        mel: makes features, on the device that the batch goes to.
        true_length: whether to pad to the longest only, instead of to 30 s.
    """
    frames = _padded_frames(utterances, true_length=true_length)
    no_tokens = torch.empty(len(utterances), 0, dtype=torch.long)
    return Batch(
        ids=[u.id for u in utterances],
        languages=[u.language or "" for u in utterances],
        tasks=[u.task for u in utterances],
        features=mel(pad(waveforms, frames).to(mel.window.device)),
        decoder_input_ids=no_tokens,
        labels=no_tokens,
        targets=target_positions(no_tokens),
        seconds=[u.seconds for u in utterances],
        tokens=[0] * len(utterances),
        at=Position(),
        after=Position(),
        last=True,
    )


def _padded_frames(utterances: Sequence[Utterance], *, true_length: bool) -> int:
    """Return the frames that a batch for evaluation is padded to."""
    return edge_of(max(u.seconds for u in utterances)) if true_length else N_FRAMES


def _batches(
    draws: Iterable[list[SampleSpec]],
    lines: SpeechDataset,
    stages: BatchPreparer,
    config: DataConfig,
) -> Batches:
    make = partial(
        DataLoader,
        lines,
        collate_fn=stages.collator,
        num_workers=config.workers,
        prefetch_factor=config.prefetch if config.workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    with closing(survive(draws, make, lines.watch)) as batches:
        yield from map(stages.finish, batches)


def _audio_of(utterances: Sequence[Utterance], index: int) -> str:
    return utterances[index].audio
