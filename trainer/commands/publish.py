"""`python -m trainer publish RUN` and `python -m trainer export RUN`: after the run, by hand."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from transformers import WhisperProcessor

from data.atomic_files import sync_tree, write_text
from data.command_help import ALL, HELP, print_knobs, print_table, print_usage
from data.config_parser import knobs
from data.errors import InputError, report_disk_errors
from trainer.checkpoint.atomic_folder import hardlink_tree, move
from trainer.checkpoint.rotation import CheckpointRotation, step_of
from trainer.config import COMMANDS, Config, parse_as
from trainer.publish.export import (
    FACTS,
    PublishConfig,
    exported_step,
    halve,
    write_companions,
    write_facts,
)
from trainer.publish.hub_repo import Hub
from trainer.publish.model_card import card
from trainer.publish.uploader import LAST, UNSENT

C = TypeVar("C", bound=Config)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig(Config):
    """Copy a run's model to a new folder. The other knobs are the run's."""

    out: str = ""  # The new folder. It must not exist.


def publish_run(arguments: Sequence[str]) -> None:
    """Send a run's model to the Hub, and its newest checkpoint where publish.checkpoints asks.

    Args:
        arguments: the run's folder, then knobs that differ from its config.yaml.

    Raises:
        InputError: there is no model, no name, or it could not be sent.
    """
    run, config = _run_of(Config, "publish", arguments)
    knobs = config.publish
    if knobs.repo is None:
        raise InputError(
            f"{run}: publish.repo is not set: say where it goes with --publish.repo=USER/NAME"
        )
    hub = Hub(knobs.repo, private=knobs.private)
    hub.reach()
    outbox = run / f".outbox-{os.getpid()}"  # a run that goes on replaces its model meanwhile
    try:
        hardlink_tree(run / "model", outbox)
        told = f"the model of update {exported_step(outbox)}"
        _describe(run, outbox, knobs)
        print(f"sent {told}: {hub.send(outbox, told.capitalize())}")
    finally:
        shutil.rmtree(outbox, ignore_errors=True)
    for path in _newest(run, config):
        told = f"the checkpoint of update {step_of(path)}"
        print(f"sent {told}: {hub.send(path, told.capitalize(), LAST)}")
    (run / UNSENT).unlink(missing_ok=True)


def export_run(arguments: Sequence[str]) -> None:
    """Copy a run's model into a new folder, with all files that other programs read.

    Args:
        arguments: the run's folder, --out=FOLDER, and knobs that differ from its config.yaml.

    Raises:
        InputError: there is no model, the folder exists, fp16 cannot hold the weights, or the disk
            is full.
    """
    run, config = _run_of(ExportConfig, "export", arguments)
    out, precision = Path(config.out), config.publish.precision
    if not config.out or out.exists():
        what = f"{out} exists already" if config.out else "--out is not set"
        raise InputError(f"{what}: name a folder that is not there yet with --out=")
    held = json.loads((run / "model" / "config.json").read_text(encoding="utf-8")).get("dtype")
    if precision == "fp32" and held == "float16":
        raise InputError(
            f"publish.precision=fp32: {run / 'model'} holds float16, and what it lost is gone: "
            "leave it out"
        )
    fresh = out.with_name(f".{out.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        with report_disk_errors(out):
            shutil.copytree(run / "model", fresh)
            write_companions(fresh, WhisperProcessor.from_pretrained(fresh))
            if precision == "fp16":
                halve(fresh)
                write_facts(fresh, json.loads((fresh / FACTS).read_text(encoding="utf-8")))
            _describe(run, fresh, config.publish)
            sync_tree(fresh)
            move(fresh, out, last=FACTS)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    print(f"{out}: the model of update {exported_step(out)}, {precision}")


def _run_of(kind: type[C], command: str, arguments: Sequence[str]) -> tuple[Path, C]:
    """Return a run's folder, which holds a model, and its config with the arguments' changes."""
    if any(word in arguments for word in (*HELP, ALL)):
        _print_help(kind, command)
        sys.exit(0)
    if not arguments or arguments[0].startswith("-"):
        raise InputError(f"name a run's folder: python -m trainer {command} RUN …")
    run = Path(arguments[0])
    if exported_step(run / "model") is None or not (run / "config.yaml").is_file():
        raise InputError(
            f"{run}: no run with a model of whisper-loop there: name the folder that holds "
            "config.yaml and model/"
        )
    return run, parse_as(kind, [str(run / "config.yaml"), *arguments[1:]])


def _print_help(kind: type[Config], command: str) -> None:
    usage = f"python -m trainer {command} RUN [--OPTION=VALUE ...]"
    print_usage(usage, COMMANDS[command])
    print_table("Arguments", {"RUN": "The run's folder. Its config.yaml has the other knobs."})
    own = [name for name, _ in knobs(kind) if name == "out"]
    published = [name for name, _ in knobs(kind) if name.startswith("publish.")]
    print_knobs(kind, {"Options": own + published})


def _describe(run: Path, folder: Path, knobs: PublishConfig) -> None:
    """Write the card of a copy again where its knobs changed, unless somebody edited it."""
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    path = folder / "README.md"
    if path.read_text(encoding="utf-8") != card(run, facts):
        print(f"{run / 'model' / path.name} was edited, or is an older version's: left as it is")
        return
    write_text(path, card(run, facts, repo=knobs.repo, licence=knobs.licence))


def _newest(run: Path, config: Config) -> list[Path]:
    """Return the newest whole checkpoint, where it is asked for and there is one."""
    if not config.publish.checkpoints:
        return []
    found = CheckpointRotation(run / "checkpoints", config.checkpoint).newest(print)
    return [] if found is None else [found]
