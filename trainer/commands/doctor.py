"""`python -m trainer doctor`: check whether this machine can train, and suggest remedies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.errors import InputError
from trainer.commands import doctor_audio as pipeline
from trainer.commands import doctor_machine as machine
from trainer.commands.doctor_machine import CheckResult

Check = tuple[str, Callable[[], CheckResult]]
MARKS = {True: ("ok", "green"), False: ("wrong", "bold red"), None: ("skipped", "dim")}


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorConfig:
    """Check that this machine can train: versions, audio, model, memory and disk."""

    # Model to check: a folder or a name on the Hub. None makes a small one.
    model: str | None = None
    runs: str = "runs"  # Folder that runs will be written to.


def checks(config: DoctorConfig, folder: Path) -> list[Check]:
    """Return the checks in order, with their names.

    Args:
        config: names the model and the folder of runs.
        folder: an empty folder for temporary files.
    """
    return [
        ("versions", machine.versions),
        ("torchaudio", machine.torchaudio),
        ("torchcodec", machine.torchcodec),
        ("GPU", machine.gpu),
        ("cores and memory", machine.memory),
        ("shared memory", machine.shared_memory),
        ("disk", partial(machine.disk, Path(config.runs))),
        ("workers", machine.workers),
        ("Hub", machine.hub),
        *(
            (f"decode {name}", partial(pipeline.decoding, name, folder))
            for name in pipeline.FORMATS
        ),
        *((f"resample {rate} Hz", partial(pipeline.resampling, rate)) for rate in pipeline.RATES),
        ("log-mel", pipeline.log_mel),
        ("tokenizer", partial(pipeline.tokenizer, config.model, folder)),
        ("generation config", partial(pipeline.generation_config, config.model, folder)),
    ]


def doctor(config: DoctorConfig) -> int:
    """Run all checks and print the results; return the exit status, 1 if a check failed."""
    with TemporaryDirectory() as folder:
        results = [(name, run_check(check)) for name, check in checks(config, Path(folder))]
    Console(highlight=False).print(result_table(results))
    return int(any(result.ok is False for _, result in results))


def run_check(check: Callable[[], CheckResult]) -> CheckResult:
    """Run a check; an exception is a failed check, so that the other checks still run."""
    try:
        return check()
    except InputError as error:
        return CheckResult(False, str(error), "")
    except Exception as error:  # any fault of this machine
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        return CheckResult(False, reason, "search for the error, or report it")


def result_table(results: Sequence[tuple[str, CheckResult]]) -> Table:
    """Return the table for the console, one row for each check."""
    table = Table("", "check", "found", "what to do", title="doctor", title_justify="left")
    for name, result in results:
        mark, style = MARKS[result.ok]
        table.add_row(Text(mark, style), name, Text(result.finding), Text(result.remedy))
    return table
