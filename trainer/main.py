"""Fine-tune Whisper.

accelerate launch trainer/main.py RECIPE.yaml --run_dir=runs/mine --data.corpus /path/to/zh-TW
"""

import sys
from contextlib import closing
from pathlib import Path

if not __package__:  # run as a script: search the repository, not trainer/, for imports
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from accelerate import Accelerator

from data.errors import plain_errors
from data.manifest import Manifest
from data.sampling.epoch_plan import Plan
from eval.evaluate import Evaluator
from eval.whisper import Whisper, load_whisper
from trainer.checkpoint.fixed_knobs import refuse_changed_knobs
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.rotation import CHECKPOINTS, CheckpointRotation
from trainer.config import Config, command_line
from trainer.distributed.accelerator import build_accelerator
from trainer.distributed.build_engine import build_engine
from trainer.distributed.collectives import closing_process_group
from trainer.distributed.fsdp import FullModel
from trainer.heartbeat import Heartbeat
from trainer.loop import train
from trainer.metrics.clip_losses import ClipLosses
from trainer.metrics.console import closing_message, gpu_warnings, run_overview, start_warnings
from trainer.metrics.failed_clips import DropLog, num_training_clips
from trainer.metrics.flops import Peak, peak_flops, whisper_flops
from trainer.metrics.plan_check import conditions, plan_path
from trainer.metrics.profiler import NoProfile, Profile
from trainer.metrics.recorder import JsonlLog, NullRecorder, Recorder
from trainer.metrics.train_metrics import TrainMetrics
from trainer.metrics.unused_knobs import unused_knobs
from trainer.metrics.wall_clock import WallClock
from trainer.model import prepare_training
from trainer.nonfinite import NonFiniteGuard
from trainer.process.run_status import record_status, report_input_errors
from trainer.process.signals import StopSignal
from trainer.process.watchdog import Watchdog
from trainer.publish.export import set_generation_config
from trainer.publish.uploader import HubUploader
from trainer.recovery import explain_stop, fit_passes_in_memory, save_on_exit
from trainer.resume import fixed_knobs, resume, retry_best_export, with_fixed_shapes
from trainer.run import Monitors, Run, Saving, Training, num_steps
from trainer.run_dir import freeze_corpus, open_run_dir, write_settings
from trainer.state import TrainState
from trainer.train_loader import build_train_loader
from trainer.validation import Validation


def main() -> None:
    """Parse the arguments and train."""
    with plain_errors(), report_input_errors():
        config = command_line()
        folder = Path(config.run_dir)
        with open_run_dir(folder, config.resume), record_status(folder) as status_path:
            watchdog = Watchdog(config.loop.stall_seconds, status_path, folder / CHECKPOINTS)
            stop = StopSignal(watchdog.exit_now)
            stop.install_handlers()
            accelerator = build_accelerator(
                precision=config.precision,
                deterministic=config.deterministic,
                trackers=config.log.trackers,
            )
            with closing_process_group(accelerator, watchdog):
                train_and_evaluate(build(config, Heartbeat(accelerator, stop, watchdog)), stop)


def train_and_evaluate(run: Run, stop: StopSignal) -> None:
    """Evaluate the model before training, train, and evaluate the best model."""
    stop.defer()
    monitors, validation, checkpoints = run.monitors, run.validation, run.saving.checkpoints
    with monitors.recorder, closing(run.training.train_loader), explain_stop(run):
        validation.before_training(run.state)
        with save_on_exit(run):
            fit_passes_in_memory(run)
            train(run)
        run.training.engine.free_memory()
        run.training.full_model.refresh()
        retry_best_export(checkpoints, run.state, validation, run.training.full_model)
        checkpoints.wait_for_copy()  # before the best model's weights replace the last ones
        validation.after_training(run.state)
        monitors.profiler.close()
        checkpoints.close()
        validation.uploader.close()
        monitors.recorder.record(run.state.step, monitors.clock.shares())
        monitors.recorder.print(f"the time of this start: {monitors.clock.summary()}")
    monitors.recorder.print(closing_message(validation.folder))


def build(config: Config, heartbeat: Heartbeat) -> Run:
    """Build everything that the training loop uses, in order."""
    folder, accelerator = Path(config.run_dir), heartbeat.accelerator
    recorder = Recorder(folder, accelerator) if accelerator.is_main_process else NullRecorder()
    rotation = CheckpointRotation(folder / CHECKPOINTS, config.checkpoint)
    checkpoints = Checkpoints(rotation, accelerator, recorder.print)
    saved = checkpoints.find(config.resume)
    config = with_fixed_shapes(config, accelerator.device, saved)
    whisper = load_whisper(config.model.name, config.model.revision)
    manifest = freeze_corpus(
        folder, config.data, whisper.labels(), accelerator, seed=config.seed, resumed=bool(saved)
    )
    set_generation_config(whisper, manifest.train)
    plan = Plan.from_utterances(manifest.train, config.data, config.seed)
    steps = num_steps(config.loop, plan, accelerator)
    knobs = fixed_knobs(config, manifest, steps)
    if saved is not None:
        refuse_changed_knobs(saved, knobs, config.accept)

    monitors = build_monitors(config, heartbeat, recorder, whisper, plan, steps)
    validation = build_validation(config, heartbeat, monitors, whisper, manifest)
    training = build_training(config, accelerator, whisper, manifest, plan, monitors)
    state = TrainState()
    checkpoints.track_steps(state)
    if saved is not None:
        resume(saved, checkpoints, state, validation, training.full_model)

    every = config.checkpoint.save_every
    run = Run(
        config=config.loop,
        state=state,
        training=training,
        saving=Saving(checkpoints=checkpoints, fixed_knobs=knobs, save_every=every),
        monitors=monitors,
        validation=validation,
        has_dev=bool(manifest.dev),
        steps=steps,
    )
    start_logs(config, run, whisper, manifest, plan)
    return run


def build_monitors(
    config: Config,
    heartbeat: Heartbeat,
    recorder: Recorder | NullRecorder,
    whisper: Whisper,
    plan: Plan,
    steps: int,
) -> Monitors:
    """Build what watches over training, and its logs."""
    folder, accelerator = Path(config.run_dir), heartbeat.accelerator
    flops = whisper_flops(whisper, config.model)
    clips = num_training_clips(config.data, plan, steps)
    peak = Peak(accelerator.device, *peak_flops(accelerator.device))
    trace = folder / "profile" / f"trace{accelerator.process_index or ''}.json"
    drops = JsonlLog(folder / "drops.jsonl", recorder)
    nonfinite = JsonlLog(folder / "nonfinite.jsonl", recorder)
    return Monitors(
        heartbeat=heartbeat,
        guard=NonFiniteGuard(accelerator, nonfinite, config.loop.max_nonfinite_steps),
        drops=DropLog(drops, config.data, clips, accelerator),
        meter=TrainMetrics(accelerator, flops, peak),
        clock=WallClock(),
        losses=ClipLosses(folder, accelerator, recorder),
        profiler=Profile(trace, recorder.print, flops, peak) if config.profile else NoProfile(),
        recorder=recorder,
        log_every=config.log.log_every,
    )


def build_validation(
    config: Config, heartbeat: Heartbeat, monitors: Monitors, whisper: Whisper, manifest: Manifest
) -> Validation:
    """Build what evaluates the model on dev and test, and exports the best one."""
    folder, recorder = Path(config.run_dir), monitors.recorder
    evaluator = Evaluator(
        accelerator=heartbeat.accelerator,
        whisper=whisper,
        data=config.data,
        config=config.eval,
        silence=config.model.silence_states,
        heartbeat=heartbeat.beat,
        show_progress=heartbeat.show_progress,
        pause_watchdog=heartbeat.pause_watchdog,
        track=recorder.track,
    )
    return Validation(
        evaluator=evaluator,
        manifest=manifest,
        folder=folder,
        recorder=recorder,
        clock=monitors.clock,
        eval_clips=config.loop.eval_clips,
        uploader=HubUploader(folder, config.publish, recorder.print),
    )


def build_training(
    config: Config,
    accelerator: Accelerator,
    whisper: Whisper,
    manifest: Manifest,
    plan: Plan,
    monitors: Monitors,
) -> Training:
    """Build the model, its optimizer and its data."""
    module = prepare_training(whisper, config.model)
    print_fn, fatal_ids = monitors.recorder.print, monitors.drops.fatal
    engine = build_engine(accelerator, module, config.model, config.optim, print_fn)
    return Training(
        engine=engine,
        full_model=FullModel(accelerator, engine.model, whisper),
        train_loader=build_train_loader(config, accelerator, whisper, manifest, plan, fatal_ids),
        optim=config.optim,
        flops=whisper_flops(whisper, config.model),
        seed=config.seed,
    )


def start_logs(config: Config, run: Run, whisper: Whisper, manifest: Manifest, plan: Plan) -> None:
    """Write the settings, truncate logs to the current update, and print an overview of the run."""
    folder, state, steps = Path(config.run_dir), run.state, run.steps
    accelerator, knobs = run.training.engine.accelerator, run.saving.fixed_knobs
    recorder, peak = run.monitors.recorder, run.monitors.meter.peak
    origin = {"data": knobs["data"], "revisions": manifest.revisions()}
    write_settings(folder, config.to_yaml(), accelerator, origin, peak)
    recorder.begin(config.log, config.flat(), step=state.step, steps=steps)
    run.monitors.losses.rewind(state.step)
    recorder.compare_with_plan(plan_path(folder), conditions(accelerator, knobs), state.step, steps)
    streaming = config.data.streaming
    recorder.print(run_overview(manifest, plan, whisper.model, state, steps, streaming=streaming))
    bound = gpu_warnings(config.data, plan, run.training.flops, peak.per_second, accelerator)
    unused = unused_knobs(config.data, config.model, whisper.model.config)
    for warning in [*start_warnings(manifest, accelerator, whisper.model), *bound, *unused]:
        recorder.print(f"warning: {warning}")


if __name__ == "__main__":
    main()
