"""Where a run's batches come from: its frozen corpus, or a stream."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data.audio.augment import Augmentation
from data.audio.source import revision_of
from data.dataloader import BatchPreparer, TrainLoader, train_batches
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.screening.training_set import spoken
from data.streaming.stream import Stream
from data.streaming.window_log import WindowLog
from data.streaming.windowed_loader import StreamTrainLoader
from data.streaming.windows import Windows, screen
from data.utterance import Utterance
from eval.main_process import run_on_main_process
from trainer.config import Config
from trainer.metrics.failed_clips import DropLog
from trainer.metrics.flops import WhisperFlops
from trainer.plan.forward_limit import fit_path, fitted
from trainer.run_dir import PLACES, SPOOL
from trainer.validation import Validation


def build_train_loader(
    config: Config,
    folder: Path,
    validation: Validation,
    plan: Plan,
    drops: DropLog,
    flops: WhisperFlops,
) -> TrainLoader | StreamTrainLoader:
    """Build the way from the plan to batches, within the memory that there is.

    Raises:
        InputError: a stream cannot be opened.
    """
    accelerator, whisper = validation.evaluator.accelerator, validation.evaluator.whisper
    rank, world = accelerator.process_index, accelerator.num_processes
    architecture = whisper.model.config
    fit = fit_path(folder, accelerator, architecture, config.model, config.optim)
    budget = run_on_main_process(
        accelerator, lambda: fitted(config.data, fit)
    )  # or passes would not match
    augmentation = Augmentation(config.data.augment, config.seed, whisper.n_mels)
    stages = BatchPreparer(whisper.labels(), whisper.n_mels, accelerator.device, augmentation)

    def passes(utterances: Sequence[Utterance], plan: Plan) -> TrainLoader:
        sampler = BucketedBatchSampler(
            plan, budget, updates=0, rank=rank, world=world, pass_cost=flops.activation_bytes
        )
        return train_batches(utterances, config.data, stages, sampler, lethal=drops.lethal)

    first = passes(validation.manifest.train, plan)
    if not config.data.streaming:
        return first
    windows = build_windows(config, folder, validation)
    plans = partial(Plan.of, config=config.data, seed=config.seed)
    return StreamTrainLoader(windows, plans, passes, first, rank=rank, world=world)


def build_windows(config: Config, folder: Path, validation: Validation) -> Windows:
    """Open the stream as the manifest knows it: of that commit, and with that beginning.

    Raises:
        InputError: it cannot be opened.
    """
    accelerator, whisper = validation.evaluator.accelerator, validation.evaluator.whisper
    rank = accelerator.process_index
    manifest, encoder = validation.manifest, whisper.labels()
    commit = revision_of(manifest.train[0].audio) or config.data.revision
    stream = Stream(spoken(config.data, encoder), config.seed, commit)
    held_out = [*manifest.dev, *manifest.test]
    screened = partial(screen, config=config.data, encoder=encoder, held_out=held_out)
    places = WindowLog(folder / PLACES, manifest.fingerprint(), rank=rank)
    return Windows(stream, config.data.window, screened, folder / SPOOL / str(rank), places)
