"""The run on a GPU: proves that all is right there, and says how fast, in nine minutes at most.

    python tests/benchmark/gpu/run.py --out=gpu.jsonl

Each step is a process of its own with a time limit; what it finds is appended to the file at once.
`--plan` shows the steps, `--rows NAME …` chooses some, `--smoke` tries all of it on a CPU.
docs/gpu.md says what to bring to a machine without a network.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the other benchmarks
sys.path.insert(1, str(Path(__file__).resolve().parents[3]))

import torch
from gpu.plan import Step, plan_table, steps_of
from gpu.results import results
from gpu.runner import Runner
from measure import screen

from data.config_parser import parse_dataclass
from data.errors import InputError, plain_errors

SECONDS = 540.0  # nine minutes


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Prove on a GPU that training is right, and measure how fast it is."""

    out: str = "gpu.jsonl"  # a line is appended for all that is found
    rows: tuple[str, ...] = ()  # names of steps; none: all
    plan: bool = False  # show the steps and their time limits, and stop
    smoke: bool = False  # everything tiny, on a CPU: to try the program
    seconds: float = SECONDS  # no step runs longer than these allow
    jobs: int = 7  # tests beside each other; what measures time runs alone
    model: str | None = None  # a folder with real weights, for the step `real`
    corpus: str | None = None  # a folder with real speech, for the same
    error: float | None = None  # error rate that a CPU reached on it, as a fraction

    def __post_init__(self) -> None:
        """Refuse values that could not work.

        Raises:
            InputError: a number is out of its range, or half of what `real` needs is missing.
        """
        if self.jobs < 1:
            raise InputError(f"jobs must be at least 1, got {self.jobs}")
        if not self.seconds > 0:
            raise InputError(f"seconds must be greater than 0, got {self.seconds}")
        if (self.model is None) != (self.corpus is None):
            raise InputError("the step real needs --model and --corpus: give both or neither")

    @property
    def steps(self) -> list[Step]:
        """Return the steps that are asked for.

        Raises:
            InputError: there is no step of a name.
        """
        steps = steps_of(smoke=self.smoke, model=self.model, corpus=self.corpus, error=self.error)
        known = [step.name for step in steps]
        for name in self.rows:
            if name not in known:
                raise InputError(f"rows: there is no step {name!r}; known: {', '.join(known)}")
        return [step for step in steps if not self.rows or step.name in self.rows]


def main() -> None:
    """Run the steps, show what they found, and end with status 1 where one failed."""
    with plain_errors():
        command = parse_dataclass(Command, sys.argv[1:])
        if command.plan:
            screen().print(plan_table(command.steps, command.jobs))
            return
        if not (command.smoke or torch.cuda.is_available()):
            raise InputError("there is no GPU here: --smoke tries the program on a CPU")
        runner = Runner(
            out=Path(command.out).resolve(), seconds=command.seconds, smoke=command.smoke
        )
        found = runner.run(command.steps, command.jobs)
        screen().print(results(found))
        sys.exit(any(row.get("status") in ("failed", "timeout") for row in found))


if __name__ == "__main__":
    main()
