"""Fine-tune Whisper.

accelerate launch trainer/main.py RECIPE.yaml --run_dir=runs/mine --data.corpus /path/to/zh-TW
"""

import sys
from contextlib import closing
from functools import partial
from pathlib import Path

if not __package__:  # run as a script: search the repository, not trainer/, for imports
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from accelerate import Accelerator

from data.errors import plain_errors
from data.sampling.epoch_plan import Plan
from eval.evaluate import Evaluator
from eval.main_process import run_on_main_process
from eval.whisper import load_whisper
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.rotation import CHECKPOINTS, CheckpointRotation
from trainer.config import Config, command_line
from trainer.distributed.accelerator import build_accelerator
from trainer.distributed.collectives import process_group_ended
from trainer.distributed.deepspeed_zero2 import autocast_of
from trainer.distributed.fsdp import FullModel, prepare
from trainer.heartbeat import Heartbeat
from trainer.loop import train
from trainer.metrics.clip_losses import ClipLosses
from trainer.metrics.console import farewell, launch_bound, overview, warnings_of
from trainer.metrics.failed_clips import DropLog, clips_of_run
from trainer.metrics.flops import Peak, peak_flops
from trainer.metrics.meter import TrainMetrics
from trainer.metrics.plan_check import circumstances, plan_path
from trainer.metrics.profiler import NoProfile, Profile
from trainer.metrics.recorder import JsonlLog, NullRecorder, Recorder
from trainer.metrics.wall_clock import WallClock
from trainer.model import flops_of, prepare_training
from trainer.nonfinite import NonFiniteGuard
from trainer.process.run_status import launcher_told_of_mistakes, status
from trainer.process.signals import StopSignal
from trainer.process.watchdog import Watchdog
from trainer.publish.export import set_generation_config
from trainer.publish.uploader import HubUploader
from trainer.recovery import saved_on_exit, stop_explained
from trainer.resume import evaluation_knobs, refuse_change, resume, retry_best_export, shaping
from trainer.run import Run
from trainer.run_dir import freeze_corpus, opened, write_settings
from trainer.state import TrainState
from trainer.train_loader import build_train_loader
from trainer.validation import Validation


def main() -> None:
    """Parse the arguments and train."""
    with plain_errors(), launcher_told_of_mistakes():
        config = command_line()
        folder = Path(config.run_dir)
        with opened(folder, config.resume), status(folder) as path:
            watchdog = Watchdog(config.loop.stall_seconds, path, folder / CHECKPOINTS)
            stop = StopSignal(watchdog.exit_now)
            stop.listen()
            accelerator = build_accelerator(
                precision=config.precision,
                deterministic=config.deterministic,
                trackers=config.log.trackers,
            )
            with process_group_ended(accelerator, watchdog):
                heartbeat = Heartbeat(accelerator, stop, watchdog)
                fit(build(config, folder, accelerator, heartbeat), stop)


def fit(run: Run, stop: StopSignal) -> None:
    """Score, train, and score again."""
    stop.defer()
    with run.recorder, closing(run.passes), stop_explained(run):
        run.validation.before(run.state)
        with saved_on_exit(run):
            train(run)
        run.full_model.refresh()
        retry_best_export(run.checkpoints, run.state, run.validation, run.full_model)
        run.checkpoints.wait_for_copy()  # the best model's weights are going to replace the last
        run.validation.after(run.state)
        run.profiler.close()
        run.checkpoints.close()
        run.validation.uploader.close()
        run.recorder.record(run.state.step, run.clock.shares())
        run.recorder.say(f"the time of this start: {run.clock.told()}")
    run.recorder.say(farewell(run.validation.folder))


def build_validation(
    config: Config,
    folder: Path,
    heartbeat: Heartbeat,
    recorder: Recorder | NullRecorder,
    *,
    resumed: bool,
) -> Validation:
    """Load the model, freeze the corpus, and build what scores the one on the other."""
    whisper = load_whisper(config.model.name, config.model.revision)
    encoder = whisper.labels()
    accelerator = heartbeat.accelerator
    manifest = freeze_corpus(
        folder, config.data, encoder, accelerator, seed=config.seed, resumed=resumed
    )
    set_generation_config(whisper, manifest.train)
    evaluator = Evaluator(
        accelerator=accelerator,
        whisper=whisper,
        data=config.data,
        config=config.eval,
        silence=config.model.silence,
        mixed_precision=autocast_of(accelerator),
        beat=heartbeat.beat,
        show_progress=heartbeat.show_progress,
        pause_watchdog=heartbeat.pause_watchdog,
    )
    return Validation(
        evaluator=evaluator,
        manifest=manifest,
        folder=folder,
        recorder=recorder,
        clock=WallClock(),
        eval_clips=config.loop.eval_clips,
        uploader=HubUploader(folder, config.publish, recorder.say),
    )


def build(config: Config, folder: Path, accelerator: Accelerator, heartbeat: Heartbeat) -> Run:
    """Build everything that training touches, in order."""
    recorder = Recorder(folder, accelerator) if accelerator.is_main_process else NullRecorder()
    rotation = CheckpointRotation(folder / CHECKPOINTS, config.checkpoint)
    checkpoints = Checkpoints(rotation, accelerator, recorder.say)
    saved = checkpoints.find(config.resume)

    validation = build_validation(config, folder, heartbeat, recorder, resumed=saved is not None)
    whisper, manifest = validation.evaluator.whisper, validation.manifest

    model, optimizer = prepare(accelerator, prepare_training(whisper, config.model), config.optim)
    full_model = FullModel(accelerator, model, whisper)
    plan = Plan.of(manifest.train, config.data, config.seed)
    steps = config.loop.max_steps or run_on_main_process(
        accelerator, partial(plan.length, config.loop.epochs)
    )
    origin = {"data": manifest.fingerprint(), "revisions": manifest.revisions()}
    shape = {
        "seed": config.seed,
        "precision": config.precision,
        "data": origin["data"],
        **shaping(config.model, config.optim, config.data, steps),
        **evaluation_knobs(config.eval),
    }
    state = TrainState()
    checkpoints.track_steps(state)
    if saved is not None:
        refuse_change(saved, shape, config.accept)
        resume(saved, checkpoints, state, validation, full_model)

    logs = [JsonlLog(folder / name, recorder) for name in ("drops.jsonl", "nonfinite.jsonl")]
    drops = DropLog(logs[0], config.data, clips_of_run(config.data, plan, steps), accelerator)
    flops = flops_of(whisper, config.model)
    peak = Peak(accelerator.device, *peak_flops(accelerator.device))

    write_settings(folder, config.to_yaml(), accelerator, origin, peak)
    recorder.begin(config.log, config.flat(), step=state.step, steps=steps)
    losses = ClipLosses(folder, accelerator, recorder)
    losses.rewind(state.step)
    recorder.expect(plan_path(folder), circumstances(accelerator, shape), state.step, steps)
    recorder.say(
        overview(manifest, plan, whisper.model, state, steps, streaming=config.data.streaming)
    )
    bound = launch_bound(config.data, plan, flops, peak.per_second, accelerator)
    for warning in [*warnings_of(manifest, accelerator, whisper.model), *bound]:
        recorder.say(f"warning: {warning}")
    return Run(
        accelerator=accelerator,
        model=model,
        full_model=full_model,
        optimizer=optimizer,
        passes=build_train_loader(config, folder, validation, plan, drops, flops),
        state=state,
        heartbeat=heartbeat,
        guard=NonFiniteGuard(accelerator, logs[1], config.loop.max_failed),
        flops=flops,
        meter=TrainMetrics(accelerator, flops, peak),
        clock=validation.clock,
        losses=losses,
        recorder=recorder,
        validation=validation,
        checkpoints=checkpoints,
        profiler=Profile(folder, recorder.say, flops, peak) if config.profile else NoProfile(),
        drops=drops,
        shape=shape,
        steps=steps,
        save_every=config.checkpoint.save_every,
        log_every=config.log.log_every,
        seed=config.seed,
        config=config.loop,
        optim=config.optim,
    )


if __name__ == "__main__":
    main()
