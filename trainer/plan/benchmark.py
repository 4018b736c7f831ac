"""How long updates and evaluations take on this hardware: a few of each are made."""

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from data.batch import Batch, Position
from data.dataloader import TrainLoader
from data.log_mel import CHUNK_SECONDS
from data.manifest import Manifest
from data.utterance import Utterance
from eval.device import naming_out_of_memory
from eval.evaluate import Evaluator
from trainer.distributed.engine import Engine
from trainer.loop import SILENCE_STATES_EVERY
from trainer.metrics.flops import WhisperFlops
from trainer.metrics.plan_check import UpdateTime
from trainer.plan.workload import Update
from trainer.step import train_step
from trainer.validation import Validation

PARTS = 3  # of the compute; the update in the middle of each is made
SPREAD = 1.3  # of FLOPs between the updates made: with less, noise would tilt the line


@dataclass(kw_only=True, slots=True)
class UpdateBenchmark:
    """A model that can be trained, for a look at how fast that is. Its weights are thrown away."""

    engine: Engine
    passes: TrainLoader
    max_norm: float
    workers: int

    def measure(self, updates: Sequence[Update], flops: WhisperFlops, seconds: float) -> UpdateTime:
        """Make some of a plan's updates, over and over for about so many seconds.

        Raises:
            InputError: a pass does not fit in memory.
        """
        numbers = chosen(updates, flops)
        batches = [list(self.passes.start(Position(0, number), 1)) for number in numbers]
        self.passes.close()
        self.engine.model.train()
        took: list[list[float]] = []
        began = time.perf_counter()
        while not took or time.perf_counter() - began < seconds:
            took.append([self._make(each) for each in batches])
        steady = took[1:] or took  # the first takes memory, which later ones find there
        update, flop = line(
            [updates[number].flops(flops) for number in numbers],
            [float(np.median(each)) for each in zip(*steady, strict=True)],
        )
        work = sum(sum(b.worker_seconds.values()) for each in batches for b in each)
        audio = sum(sum(b.seconds) for each in batches for b in each)
        return UpdateTime(
            update=update + self._listening() / SILENCE_STATES_EVERY,
            flop=flop,
            decode=work / max(1, self.workers) / audio,
            alone=self.workers == 0,
        )

    def _make(self, batches: Sequence[Batch]) -> float:
        """Make an update; return its seconds."""
        tokens = sum(sum(batch.tokens) for batch in batches)
        longest = max(batch.shape.seconds for batch in batches)
        began = time.perf_counter()
        with naming_out_of_memory(
            f"in an update whose largest pass holds {longest:.0f} s of padded audio: "
            "python -m trainer find-batch-size finds the most that fits; or set "
            "data.max_seconds_per_forward"
        ):
            train_step(self.engine, batches, tokens=tokens, max_norm=self.max_norm)
        self._wait()
        return time.perf_counter() - began

    def _listening(self) -> float:
        """Return the seconds in which the model hears silence, as it does every few updates."""
        began = time.perf_counter()
        module = self.engine.module
        module.update_silence_states(module.whisper)
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.engine.accelerator.device.type == "cuda":
            torch.cuda.synchronize()


def chosen(updates: Sequence[Update], flops: WhisperFlops) -> list[int]:
    """Return the numbers of a few updates: from the shortest clips to the longest.

    In order of length they are cut into parts of equal compute, and each part's middle is taken.
    """
    order = sorted(
        range(len(updates)), key=lambda i: max(each.shape.frames for each in updates[i].passes)
    )
    total = list(accumulate(updates[i].flops(flops) for i in order))
    middles = [(2 * part + 1) / (2 * PARTS) * total[-1] for part in range(PARTS)]
    return list(dict.fromkeys(order[bisect_left(total, middle)] for middle in middles))


def line(flops: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Return the seconds of an update and of a FLOP that fit what was measured.

    Where the updates are too much alike to tell the two apart, all is put on the FLOPs.
    """
    if max(flops) > SPREAD * min(flops):
        slope, start = np.polyfit(flops, seconds, 1)
        if slope > 0 and start >= 0:
            return float(start), float(slope)
    return 0.0, sum(seconds) / sum(flops)


def scoring_seconds(
    scoring: Validation, evaluator: Evaluator, manifest: Manifest, looks: int
) -> dict[str, float]:
    """Return about how long evaluations take: before training, then all that follow; one of dev.

    A batch of clips of middle length is transcribed. Longer audio counts by the windows it fills.

    Args:
        scoring: knows the sample of dev, and which evaluations are at true length.
        evaluator: the run's.
        manifest: what the run would score.
        looks: how often the sample of dev is scored after training began.

    Raises:
        InputError: a batch does not fit in memory.
    """
    dev, test = _windows(scoring.sample), _windows(manifest.test)
    all_of_dev = _windows(manifest.dev) if scoring.sampled else 0.0  # at the end
    if not dev + test:
        return {"before": 0.0, "after": 0.0, "dev": 0.0}
    short = {split: scoring.short(split) for split in ("dev", "test")}
    scored = sorted([*manifest.dev, *manifest.test], key=lambda u: u.seconds)
    took = {
        each: _window_seconds(evaluator, scored, true_length=each) for each in set(short.values())
    }
    on_dev, on_test = (took[short[split]] for split in ("dev", "test"))
    return {
        "before": on_dev * dev + on_test * test,
        "after": on_dev * (looks * dev + all_of_dev) + on_test * test,
        "dev": on_dev * dev,
    }


def _window_seconds(
    evaluator: Evaluator, ordered: Sequence[Utterance], *, true_length: bool
) -> float:
    """Return the seconds that a window of 30 s takes; `ordered` is by length."""
    size = min(len(ordered), max(1, int(evaluator.config.batch_seconds / CHUNK_SECONDS)))
    sample = ordered[(len(ordered) - size) // 2 :][:size]
    evaluator.evaluate(sample[:1], "a first clip", true_length=true_length)
    began = time.perf_counter()
    evaluator.evaluate(sample, "some clips", true_length=true_length, costs=True)
    return (time.perf_counter() - began) / _windows(sample)


def _windows(utterances: Sequence[Utterance]) -> float:
    return sum(max(1.0, u.seconds / CHUNK_SECONDS) for u in utterances)
