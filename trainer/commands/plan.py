"""`python -m trainer plan RECIPE …`: what a run will do, before it does it.

Padding and updates are counted from the plan itself. Time comes from a few of its own updates,
really made; memory from what the model keeps of small passes, or from what find-batch-size
measured.
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
from trainer.config import Config
from trainer.distributed.accelerator import build_accelerator
from trainer.distributed.engine import build_engine
from trainer.metrics.flops import flops_of
from trainer.metrics.meter import peak_memory
from trainer.metrics.plan_check import Forecast, UpdateTime, circumstances, plan_path
from trainer.metrics.recorder import NullRecorder
from trainer.metrics.wall_clock import WallClock
from trainer.model import prepare_training
from trainer.optimizer import moments_of
from trainer.plan.benchmark import UpdateBenchmark, scoring_seconds
from trainer.plan.forward_limit import fit_path, fitted
from trainer.plan.memory_estimate import DiskSpace, Memory, all_memory, room
from trainer.plan.plan_tables import Told, show
from trainer.plan.workload import Workload, averages
from trainer.publish.export import set_generation_config
from trainer.publish.uploader import HubUploader
from trainer.resume import shaping
from trainer.validation import Validation


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig(Config):
    """Print the time, memory and disk that a run will take."""

    processes: int = 1  # Processes that will train. The time of their communication is not counted.
    seconds: float = 10.0  # Seconds to spend on real updates, which measure the speed.

    def __post_init__(self) -> None:
        """Refuse values that could not work.

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
    """Count, measure, tell, and keep it for the run.

    Raises:
        InputError: training would refuse to begin, or an update does not fit in memory.
    """
    draft = PlannedRun(config)
    scoring = draft.scoring()  # before the updates, which move the weights
    scoring_bytes = peak_memory(draft.accelerator.device) if scoring["after"] else 0
    lengths = draft.memory.lengths(draft.updates)
    pace = draft.bench.measure(draft.updates, draft.flops, config.seconds)
    update_seconds = draft.update_seconds(pace)
    told: Told = {
        "speech": draft.speech(),
        "updates": draft.counts(),
        "seconds": {"training": draft.steps * update_seconds, "scoring": scoring},
        "audio_seconds_decoded_a_second": config.processes / pace.decode,
        "memory": {
            "source": draft.memory.source,
            "bytes": all_memory(draft.accelerator.device),
            "scoring": scoring_bytes,
            "lengths": lengths,
        },
        "disk": asdict(draft.room()),
    }
    forecast = Forecast(
        pace=pace,
        update_seconds=update_seconds,
        scoring_seconds=scoring["after"],
        of=draft.circumstances(),
    )
    path = plan_path(draft.folder)
    write_json(path, {**told, "forecast": asdict(forecast)})
    show(told, path)


class PlannedRun:
    """A run that is built, and not begun."""

    def __init__(self, config: PlanConfig) -> None:
        """Read the corpus, load the model, and draw the plan.

        Raises:
            InputError: training would refuse to begin.
        """
        self.config, self.folder = config, Path(config.run_dir)
        self.accelerator = build_accelerator(
            precision=config.precision, deterministic=config.deterministic, trackers=()
        )
        self.whisper = load_whisper(config.model.name, config.model.revision)
        self.manifest, self.left_out = self._read()
        set_generation_config(self.whisper, self.manifest.train)
        module = prepare_training(self.whisper, config.model)
        engine = build_engine(self.accelerator, module, config.optim)
        self.flops = flops_of(self.whisper, config.model)
        architecture = self.whisper.model.config
        fit = fit_path(self.folder, self.accelerator, architecture, config.model, config.optim)
        self.memory = Memory(
            self.accelerator,
            engine.model,
            fit,
            moments=moments_of(module, config.optim),
            flops=self.flops,
        )
        self.plan = Plan.from_utterances(self.manifest.train, config.data, config.seed)
        self.steps = config.loop.max_steps or self.plan.num_updates(config.loop.epochs)
        budget = fitted(config.data, fit)
        sampler = BucketedBatchSampler(self.plan, budget, updates=0, world_size=config.processes)
        stages = BatchPreparer(self.whisper.labels(), self.whisper.n_mels, self.accelerator.device)
        workload = Workload(self.manifest.train, sampler, self.whisper.labels())
        self.updates = list(workload.updates(min(self.steps, len(self.plan.updates(0)))))
        self.bench = UpdateBenchmark(
            engine=engine,
            passes=train_batches(self.manifest.train, config.data, stages, sampler),
            max_norm=config.optim.max_norm,
            workers=config.data.workers,
        )

    def _read(self) -> tuple[Manifest, dict[str, dict[str, int]]]:
        """Return the corpus as training would freeze it, and how much was left out and why."""
        data, named_in = self.config.data, plan_path(self.folder).with_suffix(".drops.jsonl")
        cache = scan_cache_path(self.folder.parent, data)
        manifest, drops = build_manifest(data, self.whisper.labels(), cache, show=True)
        write_jsonl(named_in, map(asdict, drops))
        rows = len(manifest.train) + sum(drop.split == data.train_split for drop in drops)
        refuse_broken(drops, rows, data, named_in)
        return manifest, count_reasons(drops)

    @property
    def looks(self) -> set[int]:
        """Return the updates after which dev is scored."""
        every = self.config.loop.eval_every
        return {*range(every, self.steps, every), self.steps} if self.manifest.dev else set()

    def scoring(self) -> Told:
        """Return the seconds of all evaluations: before the first update, and after it."""
        evaluator = Evaluator(
            accelerator=self.accelerator,
            whisper=self.whisper,
            data=self.config.data,
            config=self.config.eval,
            silence=self.config.model.silence_states,
        )
        scoring = Validation(
            evaluator=evaluator,
            manifest=self.manifest,
            folder=self.folder,
            recorder=NullRecorder(),
            clock=WallClock(),
            eval_clips=self.config.loop.eval_clips,
            uploader=HubUploader(self.folder, self.config.publish, print),  # never started
        )
        took = scoring_seconds(scoring, evaluator, self.manifest, looks=len(self.looks))
        return {name: seconds / self.config.processes for name, seconds in took.items()}

    def speech(self) -> Told:
        """Return the clips and hours of each split, and what was left out."""
        told: Told = {"left_out": self.left_out}
        for split in ("train", "dev", "test"):
            held = getattr(self.manifest, split)
            told[split] = {"clips": len(held), "hours": sum(u.seconds for u in held) / 3600}
        return told

    def counts(self) -> Told:
        """Return how many updates there are, and what one holds."""
        return {
            "all": self.steps,
            "an_epoch": len(self.plan.updates(0)),
            "buckets": len(self.plan.buckets),
            **averages(self.updates),
        }

    def update_seconds(self, pace: UpdateTime) -> float:
        """Return what an update takes, on average."""
        number, audio = len(self.updates), sum(each.seconds for each in self.updates)
        flops = sum(each.flops(self.flops) for each in self.updates)
        audio /= self.config.processes
        return pace.seconds(updates=number, flops=flops, audio=audio) / number

    def room(self) -> DiskSpace:
        """Return what the run needs on the disk; asked after an update was made."""
        every = self.config.checkpoint.save_every
        saves = {*range(every, self.steps, every), self.steps} | self.looks
        bench, config = self.bench, self.config.checkpoint
        return room(bench.engine.model, bench.engine.optimizer, config, self.folder, saves)

    def circumstances(self) -> Told:
        """Return what the plan holds for: a run in others is not compared with it."""
        config, data = self.config, self.manifest.fingerprint()
        shape = {"seed": config.seed, "data": data}
        shape |= shaping(config.model, config.optim, config.data, self.steps)
        return {**circumstances(self.accelerator, shape), "processes": config.processes}
