"""`python -m trainer plan RECIPE …`: predict a run's updates, padding, speed, memory and disk.

Updates and padding are counted from the epoch plan. Speed is measured on a few of its updates.
Memory is estimated from small passes, or taken from the measurements of find-batch-size.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from data.atomic_files import write_json, write_jsonl
from data.dataloader import BatchPreparer, train_batches
from data.errors import InputError
from data.manifest import Manifest, build_manifest, scan_cache_path
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.screening.filters import count_reasons, refuse_broken
from eval.evaluate import Evaluator
from eval.whisper import load_whisper
from trainer.checkpoint.fixed_knobs import training_knobs
from trainer.config import Config
from trainer.distributed.accelerator import build_accelerator
from trainer.distributed.build_engine import build_engine
from trainer.metrics.flops import whisper_flops
from trainer.metrics.plan_check import Forecast, UpdateTime, conditions, plan_path
from trainer.metrics.recorder import NullRecorder
from trainer.metrics.train_metrics import peak_memory
from trainer.metrics.wall_clock import WallClock
from trainer.model import prepare_training
from trainer.optimizer import optimizer_state_bytes
from trainer.plan.benchmark import UpdateBenchmark, evaluation_seconds
from trainer.plan.disk_space import DiskSpace, disk_space
from trainer.plan.forward_pass_budget import fit_path, with_fitted_budget
from trainer.plan.memory_estimate import MemoryEstimator, total_memory
from trainer.plan.plan_tables import Section, show
from trainer.plan.workload import Workload, average_update
from trainer.publish.export import set_generation_config
from trainer.publish.uploader import HubUploader
from trainer.resume import with_fixed_shapes
from trainer.validation import Validation


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig(Config):
    """Print the time, memory and disk that a run will take."""

    processes: int = 1  # Processes that will train. The time of their communication is not counted.
    seconds: float = 10.0  # Seconds to spend on real updates, which measure the speed.

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a number is out of its range.
        """
        Config.__post_init__(self)
        if self.data.streaming:
            raise InputError(
                "data.streaming: what a stream holds is known only after it was read: plan a part "
                "of it that lies on disk, with data.streaming=false"
            )
        if self.processes < 1:
            raise InputError(f"processes must be at least 1, got {self.processes}")
        if not self.seconds > 0:
            raise InputError(f"seconds must be greater than 0, got {self.seconds}")


def plan(config: PlanConfig) -> None:
    """Predict a run, show the prediction, and write it to a file for the run to compare with.

    Raises:
        InputError: training could not start, or an update does not fit in memory.
    """
    run = PlannedRun(config)
    scoring = run.evaluation_seconds()  # before the updates, which change the weights
    scoring_bytes = peak_memory(run.accelerator.device) if scoring["after"] else 0
    lengths = run.memory.lengths(run.updates)
    pace = run.benchmark.measure(run.updates, run.flops, config.seconds)
    update_seconds = run.update_seconds(pace)
    sections: Section = {
        "speech": run.speech(),
        "updates": run.counts(),
        "seconds": {"training": run.steps * update_seconds, "scoring": scoring},
        "audio_seconds_decoded_a_second": config.processes / pace.decode,
        "memory": {
            "source": run.memory.source,
            "bytes": total_memory(run.accelerator.device),
            "scoring": scoring_bytes,
            "lengths": lengths,
        },
        "disk": asdict(run.disk_space()),
    }
    forecast = Forecast(
        pace=pace,
        update_seconds=update_seconds,
        scoring_seconds=scoring["after"],
        of=run.conditions(),
    )
    path = plan_path(run.folder)
    write_json(path, {**sections, "forecast": asdict(forecast)})
    show(sections, path)


class PlannedRun:
    """A run that is set up for training, but does not train."""

    def __init__(self, config: PlanConfig) -> None:
        """Read the corpus, load the model, and compute the epoch plan.

        Raises:
            InputError: training could not start.
        """
        self.accelerator = build_accelerator(
            precision=config.precision, deterministic=config.deterministic, trackers=()
        )
        config = with_fixed_shapes(config, self.accelerator.device)
        self.config, self.folder = config, Path(config.run_dir)
        self.whisper = load_whisper(config.model.name, config.model.revision)
        self.manifest, self.left_out = self._read_corpus()
        set_generation_config(self.whisper, self.manifest.train)
        module = prepare_training(self.whisper, config.model)
        engine = build_engine(self.accelerator, module, config.model, config.optim, print)
        self.flops = whisper_flops(self.whisper, config.model)
        architecture = self.whisper.model.config
        fit = fit_path(self.folder, self.accelerator, architecture, config.model, config.optim)
        moments = optimizer_state_bytes(module, config.optim)
        self.memory = MemoryEstimator(
            self.accelerator, engine.model, fit, moments=moments, flops=self.flops
        )
        self.plan = Plan.from_utterances(self.manifest.train, config.data, config.seed)
        self.steps = config.loop.max_steps or self.plan.num_updates(config.loop.epochs)
        budget = with_fitted_budget(config.data, fit)
        sampler = BucketedBatchSampler(self.plan, budget, updates=0, world_size=config.processes)
        labels = self.whisper.labels()
        preparer = BatchPreparer(labels, self.whisper.n_mels, self.accelerator.device)
        workload = Workload(self.manifest.train, sampler, labels)
        self.updates = list(workload.updates(min(self.steps, len(self.plan.updates(0)))))
        self.benchmark = UpdateBenchmark(
            engine=engine,
            passes=train_batches(self.manifest.train, config.data, preparer, sampler),
            max_norm=config.optim.max_norm,
            workers=config.data.workers,
        )

    def _read_corpus(self) -> tuple[Manifest, dict[str, dict[str, int]]]:
        """Return the manifest that training would use, and the counts of clips left out."""
        data, drops_path = self.config.data, plan_path(self.folder).with_suffix(".drops.jsonl")
        cache = scan_cache_path(self.folder.parent, data)
        manifest, drops = build_manifest(data, self.whisper.labels(), cache, show=True)
        write_jsonl(drops_path, map(asdict, drops))
        rows = len(manifest.train) + sum(drop.split == data.train_split for drop in drops)
        refuse_broken(drops, rows, data, drops_path)
        return manifest, count_reasons(drops)

    @property
    def evaluated_updates(self) -> set[int]:
        """Updates after which dev is scored."""
        every = self.config.loop.eval_every
        return {*range(every, self.steps, every), self.steps} if self.manifest.dev else set()

    def evaluation_seconds(self) -> Section:
        """Return the seconds of evaluations before and after the first update."""
        evaluator = Evaluator(
            accelerator=self.accelerator,
            whisper=self.whisper,
            data=self.config.data,
            config=self.config.eval,
            silence=self.config.model.silence_states,
        )
        validation = Validation(
            evaluator=evaluator,
            manifest=self.manifest,
            folder=self.folder,
            recorder=NullRecorder(),
            clock=WallClock(),
            eval_clips=self.config.loop.eval_clips,
            uploader=HubUploader(self.folder, self.config.publish, print),  # never started
        )
        measured = evaluation_seconds(
            validation, evaluator, self.manifest, evaluations=len(self.evaluated_updates)
        )
        return {name: seconds / self.config.processes for name, seconds in measured.items()}

    def speech(self) -> Section:
        """Return the clips and hours of each split, and the counts of clips left out."""
        section: Section = {"left_out": self.left_out}
        for split in ("train", "dev", "test"):
            clips = getattr(self.manifest, split)
            section[split] = {"clips": len(clips), "hours": sum(u.seconds for u in clips) / 3600}
        return section

    def counts(self) -> Section:
        """Return the number of updates, and the average content of one."""
        return {
            "all": self.steps,
            "an_epoch": len(self.plan.updates(0)),
            "buckets": len(self.plan.buckets),
            **average_update(self.updates),
        }

    def update_seconds(self, pace: UpdateTime) -> float:
        """Return the average seconds of an update."""
        number, audio = len(self.updates), sum(each.seconds for each in self.updates)
        flops = sum(each.flops(self.flops) for each in self.updates)
        audio /= self.config.processes
        return pace.seconds(updates=number, flops=flops, audio=audio) / number

    def disk_space(self) -> DiskSpace:
        """Return the disk space of the run; call this after an update was made."""
        every = self.config.checkpoint.save_every
        saves = {*range(every, self.steps, every), self.steps} | self.evaluated_updates
        engine, config = self.benchmark.engine, self.config.checkpoint
        return disk_space(engine.model, engine.optimizer, config, self.folder, saves)

    def conditions(self) -> Section:
        """Return the settings that the plan is valid for; other runs are not compared with it."""
        config, data = self.config, self.manifest.fingerprint()
        shape = {"seed": config.seed, "data": data}
        shape |= training_knobs(config.model, config.optim, config.data, self.steps)
        return {**conditions(self.accelerator, shape), "processes": config.processes}
