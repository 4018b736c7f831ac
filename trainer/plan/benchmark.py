"""Benchmark a few updates and an evaluation batch, to predict how long a run takes."""

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
from eval.device import explain_out_of_memory
from eval.evaluate import Evaluator
from trainer.distributed.engine import Engine
from trainer.loop import SILENCE_STATES_EVERY
from trainer.metrics.flops import WhisperFlops
from trainer.metrics.plan_check import UpdateTime
from trainer.plan.workload import Update
from trainer.step import train_step
from trainer.validation import Validation

PARTS = 3  # of equal compute; the update in the middle of each is measured
MIN_FLOPS_RATIO = 1.3  # of the largest to the smallest update, to fit a line through the times


@dataclass(kw_only=True, slots=True)
class UpdateBenchmark:
    """Measures the speed of real updates. The model's weights change and are not saved."""

    engine: Engine
    passes: TrainLoader
    max_norm: float
    workers: int

    def measure(self, updates: Sequence[Update], flops: WhisperFlops, seconds: float) -> UpdateTime:
        """Repeat a few updates of a plan for about `seconds`, and fit their time.

        Args:
            updates: of the plan.
            flops: of the model.
            seconds: to measure for.

        Raises:
            InputError: a forward pass does not fit in memory.
        """
        numbers = representative_updates(updates, flops)
        batches = [list(self.passes.start(Position(0, number), 1)) for number in numbers]
        self.passes.close()
        self.engine.model.train()
        times: list[list[float]] = []
        began = time.perf_counter()
        while not times or time.perf_counter() - began < seconds:
            times.append([self._update_seconds(passes) for passes in batches])
        steady = times[1:] or times  # the first round allocates memory
        update, flop = fit_line(
            [updates[number].flops(flops) for number in numbers],
            [float(np.median(column)) for column in zip(*steady, strict=True)],
        )
        work = sum(sum(b.worker_seconds.values()) for passes in batches for b in passes)
        audio = sum(sum(b.seconds) for passes in batches for b in passes)
        return UpdateTime(
            update=update + self._silence_seconds() / SILENCE_STATES_EVERY,
            flop=flop,
            decode=work / max(1, self.workers) / audio,
            alone=self.workers == 0,
        )

    def _update_seconds(self, batches: Sequence[Batch]) -> float:
        """Make an update, and return its seconds."""
        tokens = sum(sum(batch.tokens) for batch in batches)
        longest = max(batch.shape.seconds for batch in batches)
        began = time.perf_counter()
        with explain_out_of_memory(
            f"in an update whose largest pass holds {longest:.0f} s of padded audio: "
            "python -m trainer find-batch-size finds the most that fits; or set "
            "data.max_seconds_per_forward"
        ):
            train_step(self.engine, batches, tokens=tokens, max_norm=self.max_norm)
        self._synchronize()
        return time.perf_counter() - began

    def _silence_seconds(self) -> float:
        """Compute the silence states, as training does every few updates; return the seconds."""
        began = time.perf_counter()
        module = self.engine.module
        module.update_silence_states(module.whisper)
        self._synchronize()
        return time.perf_counter() - began

    def _synchronize(self) -> None:
        if self.engine.accelerator.device.type == "cuda":
            torch.cuda.synchronize()


def representative_updates(updates: Sequence[Update], flops: WhisperFlops) -> list[int]:
    """Return the indices of a few updates, from short clips to long ones.

    The updates are sorted by length and cut into parts of equal compute; the middle update of each
    part is chosen.
    """
    order = sorted(
        range(len(updates)), key=lambda i: max(p.shape.frames for p in updates[i].passes)
    )
    total = list(accumulate(updates[i].flops(flops) for i in order))
    middles = [(2 * part + 1) / (2 * PARTS) * total[-1] for part in range(PARTS)]
    return list(dict.fromkeys(order[bisect_left(total, middle)] for middle in middles))


def fit_line(flops: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Fit measured seconds by a constant per update and a constant per FLOP.

    If the updates are too similar for a fit, all time is attributed to the FLOPs.

    Returns:
        Seconds per update, and seconds per FLOP.
    """
    if max(flops) > MIN_FLOPS_RATIO * min(flops):
        slope, intercept = np.polyfit(flops, seconds, 1)
        if slope > 0 and intercept >= 0:
            return float(intercept), float(slope)
    return 0.0, sum(seconds) / sum(flops)


def evaluation_seconds(
    validation: Validation, evaluator: Evaluator, manifest: Manifest, evaluations: int
) -> dict[str, float]:
    """Estimate how long evaluations take, from a batch of clips of median length.

    Audio over 30 s counts by the number of its windows.

    Args:
        validation: knows the sample of dev, and which evaluations are at true length.
        evaluator: the run's.
        manifest: what the run would score.
        evaluations: number of evaluations of the dev sample after the first update.

    Returns:
        Seconds of all evaluations before training, of all after the first update, and of one
        evaluation of dev.

    Raises:
        InputError: a batch does not fit in memory.
    """
    dev, test = _windows(validation.sample), _windows(manifest.test)
    whole_dev = _windows(manifest.dev) if validation.is_sampled else 0.0  # at the end
    if not dev + test:
        return {"before": 0.0, "after": 0.0, "dev": 0.0}
    kinds = {split: validation.decodes_at_true_length(split) for split in ("dev", "test")}
    ordered = sorted([*manifest.dev, *manifest.test], key=lambda u: u.seconds)
    seconds = {
        kind: _window_seconds(evaluator, ordered, true_length=kind) for kind in set(kinds.values())
    }
    each_dev, each_test = (seconds[kinds[split]] for split in ("dev", "test"))
    return {
        "before": each_dev * dev + each_test * test,
        "after": each_dev * (evaluations * dev + whole_dev) + each_test * test,
        "dev": each_dev * dev,
    }


def _window_seconds(
    evaluator: Evaluator, ordered: Sequence[Utterance], *, true_length: bool
) -> float:
    """Measure the evaluation of a batch; return its seconds per window of 30 s.

    Args:
        evaluator: the run's.
        ordered: what would be scored, by length; the batch is taken from its middle.
        true_length: encode clips at their own length.
    """
    size = min(len(ordered), max(1, int(evaluator.batch_seconds / CHUNK_SECONDS)))
    sample = ordered[(len(ordered) - size) // 2 :][:size]
    evaluator.evaluate(sample[:1], "warm-up", true_length=true_length)
    began = time.perf_counter()
    evaluator.evaluate(sample, "benchmark", true_length=true_length, with_reference_loss=True)
    return (time.perf_counter() - began) / _windows(sample)


def _windows(utterances: Sequence[Utterance]) -> float:
    return sum(max(1.0, u.seconds / CHUNK_SECONDS) for u in utterances)
