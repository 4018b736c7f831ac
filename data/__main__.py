"""`python -m data COMMAND …`: inspect a corpus, divide it, compare splits, make a demo corpus."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from data.command_help import HELP, find_command, parse_command, print_commands, print_usage
from data.commands.demo_corpus import make_corpus
from data.commands.inspect import inspect
from data.commands.inspect_survey import InspectConfig
from data.commands.leakage import LeakageConfig, report_leakage
from data.commands.split import SplitConfig, split_corpus
from data.errors import plain_errors


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Make a corpus of spoken numbers in English and Mandarin."""

    folder: tyro.conf.Positional[str]  # The folder to write. It must not exist.
    clips: int = 5500  # Training clips of both languages together.
    seed: int = 0  # Seed of sentences and voices.


def demo(config: DemoConfig) -> None:
    """Make the demo corpus and print its folders."""
    for folder in make_corpus(Path(config.folder), clips=config.clips, seed=config.seed):
        print(folder)


COMMANDS: dict[str, tuple[type, Callable[[Any], object]]] = {
    "demo-corpus": (DemoConfig, demo),
    "inspect": (InspectConfig, inspect),
    "leakage": (LeakageConfig, report_leakage),
    "split": (SplitConfig, split_corpus),
}
RENAMED = {"demo": "demo-corpus"}
PROG = "python -m data"


def main() -> None:
    """Run one of the commands.

    Raises:
        SystemExit: the command or an argument is wrong (status 2), or asks for help (0).
    """
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    with plain_errors():
        if name in HELP:
            print_usage(f"{PROG} COMMAND ...", "Inspect a corpus, divide it, or make one.")
            print_commands(COMMANDS, PROG)
            return
        config, run = find_command(name, COMMANDS, RENAMED, PROG)
        run(parse_command(config, sys.argv[2:], f"{PROG} {name}"))


if __name__ == "__main__":
    main()
