"""`python -m trainer doctor`: whether this machine can train, and what to do where it cannot."""

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
    """Return what is looked at, in order.

    Args:
        config: which model, and where runs go.
        folder: an empty one, for what is written on the way.
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
        *((f"decode {name}", partial(pipeline.decoded, name, folder)) for name in pipeline.FORMATS),
        *((f"resample {rate} Hz", partial(pipeline.resampled, rate)) for rate in pipeline.RATES),
        ("log-mel", pipeline.mel),
        ("tokenizer", partial(pipeline.tokenizer, config.model, folder)),
        ("generation config", partial(pipeline.generation, config.model, folder)),
    ]


def doctor(config: DoctorConfig) -> int:
    """Look, and tell; return the exit status: 1 where something is wrong."""
    with TemporaryDirectory() as folder:
        found = [(name, examine(look)) for name, look in checks(config, Path(folder))]
    Console(highlight=False).print(shown(found))
    return int(any(symptom.ok is False for _, symptom in found))


def examine(look: Callable[[], CheckResult]) -> CheckResult:
    """Return what a check finds; one that breaks down is wrong, and the others go on."""
    try:
        return look()
    except InputError as error:
        return CheckResult(False, str(error), "")
    except Exception as error:  # whatever is wrong with this machine
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        return CheckResult(False, reason, "look the error up, or report it")


def shown(found: Sequence[tuple[str, CheckResult]]) -> Table:
    """Return a line a check."""
    table = Table("", "check", "found", "what to do", title="doctor", title_justify="left")
    for name, symptom in found:
        mark, style = MARKS[symptom.ok]
        table.add_row(Text(mark, style), name, Text(symptom.found), Text(symptom.remedy))
    return table
