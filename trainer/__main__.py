"""`python -m trainer [COMMAND] …`: train, or run another command; --help lists them."""

import sys
from collections.abc import Callable, Sequence

from data.command_help import parse_command, refuse_renamed
from data.errors import plain_errors
from trainer.config import parse_as
from trainer.main import main

PROG = "python -m trainer"
RENAMED = {"fit": "find-batch-size", "blank": "tiny-model"}


# each imports its own modules only: all together take seconds


def plan_command(arguments: Sequence[str]) -> None:
    """Print the time, memory and disk that a run will take."""
    from trainer.commands.plan import PlanConfig, plan

    plan(parse_as(PlanConfig, arguments, f"{PROG} plan"))


def find_batch_size(arguments: Sequence[str]) -> None:
    """Find the largest forward passes that fit in memory."""
    from trainer.commands.find_batch_size import FindBatchSizeConfig, find_batch_size

    find_batch_size(parse_as(FindBatchSizeConfig, arguments, f"{PROG} find-batch-size"))


def check_machine(arguments: Sequence[str]) -> None:
    """Check this machine; exit with status 0 if it can train."""
    from trainer.commands.doctor import DoctorConfig, doctor

    sys.exit(doctor(parse_command(DoctorConfig, arguments, f"{PROG} doctor")))


def tiny_model(arguments: Sequence[str]) -> None:
    """Make a very small, untrained model."""
    from trainer.commands.tiny_model import TinyModelConfig, make_tiny_model

    make_tiny_model(parse_command(TinyModelConfig, arguments, f"{PROG} tiny-model"))


def publish(arguments: Sequence[str]) -> None:
    """Upload a run's model to the Hugging Face Hub."""
    from trainer.commands.publish import publish_run

    publish_run(arguments)


def export(arguments: Sequence[str]) -> None:
    """Copy a run's model to a new folder."""
    from trainer.commands.publish import export_run

    export_run(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "plan": plan_command,
    "find-batch-size": find_batch_size,
    "doctor": check_machine,
    "tiny-model": tiny_model,
    "publish": publish,
    "export": export,
}


def run() -> None:
    """Run the command that the first argument names, or train."""
    name, *rest = sys.argv[1:] or [""]
    with plain_errors():
        refuse_renamed(name, RENAMED, PROG)
        if name in COMMANDS:
            COMMANDS[name](rest)
            return
    if name == "train":
        del sys.argv[1]
    main()


if __name__ == "__main__":
    run()
