"""`python -m trainer publish RUN` and `export RUN`: upload or copy the model of a finished run."""

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
    convert_to_fp16,
    exported_step,
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
    """Upload a run's model to the Hub, and with publish.checkpoints its newest checkpoint.

    Args:
        arguments: the run's folder, then knobs that differ from its config.yaml.

    Raises:
        InputError: there is no model or no repository name, or the upload failed.
    """
    run, config = _read_run(Config, "publish", arguments)
    knobs = config.publish
    if knobs.repo is None:
        raise InputError(
            f"{run}: publish.repo is not set: name the repository with --publish.repo=USER/NAME"
        )
    hub = Hub(knobs.repo, private=knobs.private)
    hub.ensure_exists()
    outbox = run / f".outbox-{os.getpid()}"  # training may replace the run's model meanwhile
    try:
        hardlink_tree(run / "model", outbox)
        title = f"the model of update {exported_step(outbox)}"
        _update_card(run, outbox, knobs)
        print(f"sent {title}: {hub.send(outbox, title.capitalize())}")
    finally:
        shutil.rmtree(outbox, ignore_errors=True)
    for path in _newest_checkpoint(run, config):
        title = f"the checkpoint of update {step_of(path)}"
        print(f"sent {title}: {hub.send(path, title.capitalize(), LAST)}")
    (run / UNSENT).unlink(missing_ok=True)


def export_run(arguments: Sequence[str]) -> None:
    """Copy a run's model into a new folder, with the files that other programs read.

    Args:
        arguments: the run's folder, --out=FOLDER, and knobs that differ from its config.yaml.

    Raises:
        InputError: there is no model, the folder exists, a weight is too large for fp16, or the
            disk is full.
    """
    run, config = _read_run(ExportConfig, "export", arguments)
    out, precision = Path(config.out), config.publish.precision
    if not config.out or out.exists():
        problem = f"{out} exists already" if config.out else "--out is not set"
        raise InputError(f"{problem}: name a new folder with --out=")
    dtype = json.loads((run / "model" / "config.json").read_text(encoding="utf-8")).get("dtype")
    if precision == "fp32" and dtype == "float16":
        raise InputError(
            f"publish.precision=fp32: {run / 'model'} is in float16, whose lost precision cannot "
            "be restored: leave publish.precision out"
        )
    fresh = out.with_name(f".{out.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        with report_disk_errors(out):
            shutil.copytree(run / "model", fresh)
            write_companions(fresh, WhisperProcessor.from_pretrained(fresh))
            if precision == "fp16":
                convert_to_fp16(fresh)
                write_facts(fresh, json.loads((fresh / FACTS).read_text(encoding="utf-8")))
            _update_card(run, fresh, config.publish)
            sync_tree(fresh)
            move(fresh, out, last=FACTS)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    print(f"{out}: the model of update {exported_step(out)}, {precision}")


def _read_run(kind: type[C], command: str, arguments: Sequence[str]) -> tuple[Path, C]:
    """Return the folder of a run with a model, and its config with the arguments applied.

    Raises:
        InputError: no folder is named, or it has no config.yaml or no model.
    """
    if any(word in arguments for word in (*HELP, ALL)):
        _print_help(kind, command)
        sys.exit(0)
    if not arguments or arguments[0].startswith("-"):
        raise InputError(f"name a run's folder: python -m trainer {command} RUN …")
    run = Path(arguments[0])
    if exported_step(run / "model") is None or not (run / "config.yaml").is_file():
        raise InputError(
            f"{run}: not a whisper-loop run with a model: name the folder that contains "
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


def _update_card(run: Path, folder: Path, knobs: PublishConfig) -> None:
    """Write the model card of a copy with the current knobs, unless the card was edited."""
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    path = folder / "README.md"
    if path.read_text(encoding="utf-8") != card(run, facts):
        print(
            f"{run / 'model' / path.name} was edited, or is from an older version: it is not "
            "changed"
        )
        return
    write_text(path, card(run, facts, repo=knobs.repo, licence=knobs.licence))


def _newest_checkpoint(run: Path, config: Config) -> list[Path]:
    """Return the newest complete checkpoint with publish.checkpoints, else []."""
    if not config.publish.checkpoints:
        return []
    path = CheckpointRotation(run / "checkpoints", config.checkpoint).newest(print)
    return [] if path is None else [path]
