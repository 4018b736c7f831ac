"""Build the loader of training batches, from the frozen manifest or from a stream."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from data.audio.augment import Augmentation
from data.audio.open_audio import revision_of
from data.config import DataConfig
from data.dataloader import BatchPreparer, TrainLoader, train_batches
from data.labels import LabelEncoder
from data.manifest import Manifest
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.screening.training_set import with_model_language
from data.streaming.prefetch_windows import Windows, screen_window
from data.streaming.stream import Stream
from data.streaming.stream_train_loader import StreamTrainLoader
from data.streaming.window_log import WindowLog
from data.utterance import Utterance
from eval.main_process import run_on_main_process
from eval.whisper import Whisper
from trainer.config import Config
from trainer.metrics.flops import whisper_flops
from trainer.plan.forward_pass_budget import fit_path, with_fitted_budget
from trainer.run_dir import SPOOL, WINDOWS


def build_train_loader(
    config: Config,
    accelerator: Accelerator,
    whisper: Whisper,
    manifest: Manifest,
    plan: Plan,
    fatal_ids: Iterable[str],
) -> TrainLoader | StreamTrainLoader:
    """Build the loader of training batches, with forward passes that fit in memory.

    Args:
        config: how batches are made, and how much audio a forward pass may hold.
        accelerator: the device, and this process's rank.
        whisper: the model, for its labels and features.
        manifest: the training set.
        plan: of the training set, or of a stream's first window.
        fatal_ids: ids of clips whose decoding killed a worker.

    Raises:
        InputError: a stream cannot be opened.
    """
    rank, world_size = accelerator.process_index, accelerator.num_processes
    budget = _fitted_budget(config, accelerator, whisper)
    cost = whisper_flops(whisper, config.model).activation_bytes
    augmentation = Augmentation(config.data.augment, config.seed, whisper.n_mels)
    preparer = BatchPreparer(whisper.labels(), whisper.n_mels, accelerator.device, augmentation)

    def build(utterances: Sequence[Utterance], plan: Plan) -> TrainLoader:
        sampler = BucketedBatchSampler(
            plan, budget, updates=0, rank=rank, world_size=world_size, pass_cost=cost
        )
        return train_batches(utterances, config.data, preparer, sampler, fatal_ids=fatal_ids)

    first = build(manifest.train, plan)
    if not config.data.streaming:
        return first
    windows = build_windows(config, whisper.labels(), manifest, rank)
    plans = partial(Plan.from_utterances, config=config.data, seed=config.seed, table=plan.table)
    return StreamTrainLoader(windows, plans, build, first, rank=rank, world_size=world_size)


def _fitted_budget(config: Config, accelerator: Accelerator, whisper: Whisper) -> DataConfig:
    """Return config.data with the limits of a forward pass that find-batch-size found, if any.

    The main process reads them: all processes must cut updates in the same way.
    """
    folder, model = Path(config.run_dir), whisper.model.config
    path = fit_path(folder, accelerator, model, config.model, config.optim)
    return run_on_main_process(accelerator, lambda: with_fitted_budget(config.data, path))


def build_windows(config: Config, labels: LabelEncoder, manifest: Manifest, rank: int) -> Windows:
    """Open the stream that the manifest was written for: the same commit, and the same beginning.

    Raises:
        InputError: the stream cannot be opened.
    """
    folder = Path(config.run_dir)
    commit = revision_of(manifest.train[0].audio) or config.data.revision
    stream = Stream(with_model_language(config.data, labels), config.seed, commit)
    held_out = [*manifest.dev, *manifest.test]
    screen = partial(screen_window, config=config.data, labels=labels, held_out=held_out)
    log = WindowLog(folder / WINDOWS, manifest.fingerprint(), rank=rank)
    return Windows(stream, config.data.shuffle_buffer, screen, folder / SPOOL / str(rank), log)
