"""`python -m data COMMAND …`: look into a corpus, divide it, compare splits, make a demo corpus."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from data.commands.demo_corpus import make_corpus
from data.commands.inspect import inspect
from data.commands.inspect_survey import InspectConfig
from data.commands.leakage import LeakageConfig, report_leakage
from data.commands.split import SplitConfig, split_corpus
from data.config_parser import parse_dataclass
from data.errors import plain_errors


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Make a corpus of spoken numbers, English and Mandarin."""

    folder: tyro.conf.Positional[str]  # the folder to write; it must not exist
    clips: int = 5500  # of training, both languages together
    seed: int = 0  # of sentences and voices


def demo(config: DemoConfig) -> None:
    """Make the demo corpus, and print its folders."""
    for folder in make_corpus(Path(config.folder), clips=config.clips, seed=config.seed):
        print(folder)


COMMANDS: dict[str, tuple[type, Callable[[Any], object]]] = {
    "demo": (DemoConfig, demo),
    "inspect": (InspectConfig, inspect),
    "leakage": (LeakageConfig, report_leakage),
    "split": (SplitConfig, split_corpus),
}


def main() -> None:
    """Run one of the commands."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in (*COMMANDS, "-h", "--help"):
        print(_usage(), file=sys.stderr)
        sys.exit(2)
    with plain_errors():
        if name not in COMMANDS:
            print(_usage())
            return
        config, run = COMMANDS[name]
        run(parse_dataclass(config, sys.argv[2:]))


def _usage() -> str:
    lines = (f"  {name:<9}{config.__doc__}" for name, (config, _) in COMMANDS.items())
    return "\n".join(("usage: python -m data COMMAND …, or COMMAND --help for its knobs", *lines))


if __name__ == "__main__":
    main()
