"""The steps of the run on a GPU, the most important first, and their time budgets."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.table import Table

CHECKS = "tests/gpu"
# file in tests/gpu, seconds, what it proves; those that train for long begin first
TESTS = (
    ("training", 85, "runs in fp16 and bf16: the loss falls, nothing is NaN, scores are made"),
    ("resume", 80, "a deterministic run that was killed ends with the same weights, bit for bit"),
    ("memory", 85, "where a pass does not fit in memory, smaller ones go on"),
    ("compile", 85, "compiled layers give the gradient of eager ones; seconds to compile"),
    ("graphs", 80, "passes replayed as CUDA graphs train as eager ones do"),
    ("others", 60, "every other test that needs a GPU"),
    ("fit", 60, "updates of what `trainer find-batch-size` found stay within its limit"),
    ("scoring", 45, "texts and loss of an evaluation are a CPU's, in each precision"),
    ("attention", 45, "attention with silence is that of float64, by each SDPA backend"),
    ("fp16", 40, "after clips that all failed the next update is made; rehearsal makes moments"),
    ("features", 40, "log-mel features on the GPU are the CPU's, under autocast too"),
    ("gradient", 40, "loss and gradient on the GPU are the CPU's"),
    ("sync", 40, "no pass waits for the GPU; where an update does"),
)
# size, seconds
SPEEDS = (("small", 56), ("large-v3-turbo", 35), ("large-v3", 60))
# size, clips an update, updates, clips of the corpus, seconds
COMPARED = (
    ("small", 8, 128, 512, 50),
    ("small", 24, 128, 576, 50),
    ("large-v3", 24, 96, 288, 80),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One process with a time limit."""

    name: str
    seconds: int  # it is ended then
    command: tuple[str, ...]  # arguments of Python; none: it lacks what it needs, and is skipped
    proves: str
    alone: bool = True  # it measures time; else others may run beside it


def steps_of(
    *, smoke: bool, model: str | None, corpus: str | None, error: float | None
) -> list[Step]:
    """Return all steps in the order in which they run.

    Args:
        smoke: tiny, on a CPU.
        model: a folder with real weights.
        corpus: a folder with real speech.
        error: what a CPU reached on it, to be shown beside.
    """
    return [
        _program("device", 30, "versions, card, and that a kernel runs", "machine.py"),
        *_tests(),
        *_real(model, corpus, error),
        *_speed(smoke=smoke),
    ]


def _program(name: str, seconds: int, proves: str, *command: str) -> Step:
    file, *arguments = command
    command = (f"tests/benchmark/gpu/{file}", *arguments)
    return Step(name=name, seconds=seconds, command=command, proves=proves)


def _tests() -> Iterator[Step]:
    """Yield a step for each file of tests, and one for all that are not named here."""
    pytest = ("-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "--tb=short")
    pytest += ("-W", "default")  # a library that warns is not what is tested here
    named = [f"--ignore={CHECKS}/test_{name}.py" for name, _, _ in TESTS]
    for name, seconds, proves in TESTS:
        files = (CHECKS, *named) if name == "others" else (f"{CHECKS}/test_{name}.py",)
        command = (*pytest, *files)
        yield Step(name=name, seconds=seconds, command=command, proves=proves, alone=False)


def _real(model: str | None, corpus: str | None, error: float | None) -> Iterator[Step]:
    proves = "training lowers the error of real weights on real speech, in bf16 and fp16"
    if model is None or corpus is None:
        yield Step(name="real", seconds=0, command=(), proves=proves)
        return
    arguments = [f"--model={model}", f"--corpus={corpus}"]
    if error is not None:
        arguments.append(f"--error={error}")
    yield _program("real", 150, proves, "real_speech.py", *arguments)


def _speed(*, smoke: bool) -> Iterator[Step]:
    """Yield what measures time; the largest models come last."""
    speeds = [
        _program(
            f"speed-{size}",
            seconds,
            "first and later visits of a shape, kernels, MFU",
            "speed.py",
            f"--size={'nano' if smoke else size}",
        )
        for size, seconds in SPEEDS
    ]
    compared = [
        _program(
            f"compare-{size}-{clips}",
            seconds,
            f"clips a second against Seq2SeqTrainer, {clips} clips an update",
            "compare.py",
            f"--size={'nano' if smoke else size}",
            f"--clips={2 if smoke else clips}",
            f"--updates={updates}",
            f"--train_clips={train_clips}",
        )
        for size, clips, updates, train_clips, seconds in COMPARED
    ]
    allocators = [
        _program(
            f"allocator-{segments}",
            12,
            "memory that updates of ever new sizes reserve",
            "allocator.py",
            f"--segments={segments}",
        )
        for segments in ("expandable", "fixed")
    ]
    proves = "clips transcribed a second, by precision and batch"
    evaluation = _program("evaluation", 30, proves, "evaluation.py")
    yield from (speeds[0], compared[0], evaluation, compared[1])
    yield from (*allocators, *speeds[1:], compared[2])


def groups(steps: Sequence[Step], jobs: int) -> Iterator[tuple[list[Step], int]]:
    """Yield steps that follow each other, and how many of them run beside each other."""
    for alone, together in groupby(steps, key=lambda step: step.alone):
        yield list(together), 1 if alone else jobs


def longest(steps: Sequence[Step], jobs: int) -> int:
    """Return the seconds that all take if each takes its limit."""
    total = 0
    for together, beside in groups(steps, jobs):
        ends = [0] * beside
        for step in together:  # each begins where the first one ends
            heapq.heappush(ends, heapq.heappop(ends) + step.seconds)
        total += max(ends)
    return total


def plan_table(steps: Sequence[Step], jobs: int) -> Table:
    """Return the plan: a line a step, and the total."""
    shown = Table(title="the run on a GPU", title_justify="left", caption_justify="left")
    shown.add_column("step", no_wrap=True)
    shown.add_column("budget, s", justify="right")
    shown.add_column("runs", no_wrap=True)
    shown.add_column("what it proves or measures")
    for step in steps:
        shown.add_row(
            step.name,
            str(step.seconds),
            "alone" if step.alone else f"{jobs} together",
            step.proves,
        )
    shown.caption = f"in all {longest(steps, jobs)} s, if each takes as long as it may"
    return shown
