"""Where a run's batches come from: its frozen corpus, or a stream."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from data.audio.augment import Augmentation
from data.audio.source import revision_of
from data.dataloader import BatchPreparer, TrainLoader, train_batches
from data.labels import LabelEncoder
from data.manifest import Manifest
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.screening.training_set import with_model_language
from data.streaming.stream import Stream
from data.streaming.window_log import WindowLog
from data.streaming.windowed_loader import StreamTrainLoader
from data.streaming.windows import Windows, screen_window
from data.utterance import Utterance
from eval.main_process import run_on_main_process
from eval.whisper import Whisper
from trainer.config import Config
from trainer.metrics.flops import flops_of
from trainer.plan.forward_limit import fit_path, with_fitted_budget
from trainer.run_dir import PLACES, SPOOL


def build_train_loader(
    config: Config,
    accelerator: Accelerator,
    whisper: Whisper,
    manifest: Manifest,
    plan: Plan,
    fatal_ids: Iterable[str],
) -> TrainLoader | StreamTrainLoader:
    """Build the way from the plan to batches, within the memory that there is.

    Args:
        config: how batches are made, and what a pass may hold.
        accelerator: knows the device, and this process's place among the others.
        whisper: the model, for its labels and features.
        manifest: what is trained on.
        plan: of it, or of a stream's first window.
        fatal_ids: ids of clips whose decoding killed a worker; read at every start of passes.

    Raises:
        InputError: a stream cannot be opened.
    """
    rank, world_size = accelerator.process_index, accelerator.num_processes
    folder, flops = Path(config.run_dir), flops_of(whisper, config.model)
    fit = fit_path(folder, accelerator, whisper.model.config, config.model, config.optim)
    budget = run_on_main_process(
        accelerator, lambda: with_fitted_budget(config.data, fit)
    )  # or passes would not match
    augmentation = Augmentation(config.data.augment, config.seed, whisper.n_mels)
    stages = BatchPreparer(whisper.labels(), whisper.n_mels, accelerator.device, augmentation)

    def passes(utterances: Sequence[Utterance], plan: Plan) -> TrainLoader:
        sampler = BucketedBatchSampler(
            plan,
            budget,
            updates=0,
            rank=rank,
            world_size=world_size,
            pass_cost=flops.activation_bytes,
        )
        return train_batches(utterances, config.data, stages, sampler, fatal_ids=fatal_ids)

    first = passes(manifest.train, plan)
    if not config.data.streaming:
        return first
    windows = build_windows(config, whisper.labels(), manifest, rank)
    plans = partial(Plan.from_utterances, config=config.data, seed=config.seed)
    return StreamTrainLoader(windows, plans, passes, first, rank=rank, world_size=world_size)


def build_windows(config: Config, encoder: LabelEncoder, manifest: Manifest, rank: int) -> Windows:
    """Open the stream as the manifest knows it: of that commit, and with that beginning.

    Raises:
        InputError: it cannot be opened.
    """
    folder = Path(config.run_dir)
    commit = revision_of(manifest.train[0].audio) or config.data.revision
    stream = Stream(with_model_language(config.data, encoder), config.seed, commit)
    held_out = [*manifest.dev, *manifest.test]
    screened = partial(screen_window, config=config.data, labels=encoder, held_out=held_out)
    places = WindowLog(folder / PLACES, manifest.fingerprint(), rank=rank)
    return Windows(stream, config.data.shuffle_buffer, screened, folder / SPOOL / str(rank), places)
