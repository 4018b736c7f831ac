"""Fine-tune Whisper.

accelerate launch trainer/main.py RECIPE.yaml --run_dir=runs/mine --data.corpus /path/to/zh-TW
"""

import sys
from pathlib import Path

if not __package__:  # run as a script: search the repository, not trainer/, for imports
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from accelerate import Accelerator

from data.buckets import BucketedBatchSampler, Plan
from data.errors import plain_errors
from data.loader import train_batches
from eval.evaluate import Evaluator
from eval.whisper import load_whisper
from trainer.checkpoint import Checkpoints
from trainer.config import Config, command_line
from trainer.device import build_accelerator
from trainer.flops import WhisperFlops, peak_flops
from trainer.loop import Run, left, train
from trainer.model import prepare_training
from trainer.optim import build_optimizer
from trainer.profiling import NoProfile, Profile
from trainer.publish import settle_generation
from trainer.recorder import Recorder, Silence
from trainer.resume import resume, shaping
from trainer.run_folder import (
    cautions,
    farewell,
    freeze_corpus,
    open_run,
    overview,
    status,
    write_settings,
)
from trainer.scoring import Scoring
from trainer.state import TrainState
from trainer.telemetry import Meter


def main() -> None:
    """Parse the arguments and train."""
    with plain_errors():
        config = command_line()
        folder = open_run(config.run_dir, config.resume)
        accelerator = build_accelerator(
            folder,
            precision=config.precision,
            deterministic=config.deterministic,
            trackers=config.log.trackers,
        )
        with status(folder, accelerator):
            run = build(config, folder, accelerator)
            with run.recorder:
                run.scoring.before(run.state)
                train(run)
                run.scoring.after(run.state)
                accelerator.end_training()
                run.recorder.say(farewell(folder))


def build(config: Config, folder: Path, accelerator: Accelerator) -> Run:
    """Build everything that training touches, in order."""
    checkpoints = Checkpoints(folder / "checkpoints", accelerator, config.checkpoint)
    saved = checkpoints.find(config.resume)
    recorder = Recorder(folder, accelerator) if accelerator.is_main_process else Silence()

    whisper = load_whisper(config.model.name, config.model.revision)
    encoder = whisper.labels(config.data.task)
    manifest = freeze_corpus(folder, config.data, encoder, accelerator, resumed=saved is not None)
    settle_generation(whisper, {u.language or "" for u in manifest.train}, config.data.task)
    evaluator = Evaluator(
        accelerator=accelerator, whisper=whisper, data=config.data, config=config.eval
    )
    scoring = Scoring(evaluator=evaluator, manifest=manifest, folder=folder, recorder=recorder)

    module = prepare_training(whisper, config.model)
    model, optimizer = accelerator.prepare(module, build_optimizer(module, config.optim))
    flops = WhisperFlops.of(whisper.model.config, frozen_encoder=config.model.freeze_encoder)
    peak, source = peak_flops(accelerator.device)

    state, shape = TrainState(), shaping(config.seed, config.data, manifest)
    resume(saved, checkpoints, state, shape, scoring)
    plan = Plan.of(manifest.train, config.data, config.seed)
    steps = config.loop.max_steps or plan.length(config.loop.epochs)
    sampler = BucketedBatchSampler(
        plan,
        config.data,
        updates=left(config.loop, state, steps),
        start=state.position,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )

    write_settings(folder, config.to_yaml(), accelerator, data=shape["data"], peak=(peak, source))
    recorder.begin(config.log.trackers, step=state.step, steps=steps)
    recorder.say(overview(manifest, plan, whisper.model, state, steps))
    for warning in cautions(manifest, accelerator, whisper.model):
        recorder.say(f"warning: {warning}")
    return Run(
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        loader=train_batches(manifest.train, config.data, encoder, whisper.n_mels, sampler),
        state=state,
        meter=Meter(accelerator, flops, peak),
        recorder=recorder,
        scoring=scoring,
        checkpoints=checkpoints,
        profiler=Profile(folder, recorder.say) if config.profile else NoProfile(),
        drops=folder / "drops.jsonl",
        plan=shape,
        steps=steps,
        seed=config.seed,
        log_every=config.log.log_every,
        config=config.loop,
        optim=config.optim,
    )


if __name__ == "__main__":
    main()
