"""Config: all knobs of a run, from a recipe and the command line; and the --help page."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from data.command_help import (
    ALL,
    HELP,
    every_knob,
    print_knobs,
    print_table,
    print_usage,
)
from data.config import DataConfig
from data.config_parser import RENAMED, parse_dataclass, recipe_arguments
from data.errors import InputError, redact
from eval.config import EvalConfig
from eval.device import Precision
from trainer.checkpoint.rotation import CheckpointConfig
from trainer.metrics.train_metrics import LogConfig
from trainer.model import ModelConfig
from trainer.optimizer import OptimConfig
from trainer.publish.export import PublishConfig
from trainer.run import LoopConfig

RECIPES = Path(__file__).parent / "recipes"
START_KNOBS = ("print_config", "resume", "accept")  # of one start, not of the run
PROG = "accelerate launch trainer/main.py"
COMMANDS = {
    "train": "Train. This is also what happens without a command.",
    "plan": "Print the time, memory and disk that a run will take.",
    "find-batch-size": "Find the largest forward passes that fit in memory.",
    "doctor": "Check that this machine can train.",
    "tiny-model": "Make a very small, untrained Whisper for a corpus.",
    "publish": "Upload a run's model to the Hugging Face Hub.",
    "export": "Copy a run's model to a new folder.",
}
# the knobs that --help shows, by purpose
GROUPS = {
    "Corpus": (
        "data.corpus",
        "data.language",
        "data.train_split",
        "data.dev_split",
        "data.test_split",
    ),
    "Model": ("model.name", "model.freeze_encoder", "model.lora_rank"),
    "Length of training": ("loop.epochs", "loop.max_steps", "loop.eval_every", "optim.lr"),
    "Speed and memory": (
        "precision",
        "data.update_seconds",
        "data.max_seconds_per_forward",
        "data.workers",
        "model.gradient_checkpointing",
    ),
    "Where results go": ("run_dir", "checkpoint.save_every", "log.trackers", "publish.repo"),
    "Resume": ("resume", "accept"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Fine-tune Whisper. Give a recipe, options, or both; an option overrides the recipe."""

    run_dir: str = "runs/whisper"  # The folder that the run writes all its files to.
    # Continue from this checkpoint's folder; auto continues from the newest checkpoint of run_dir,
    # and starts a new run if there is none.
    resume: str | None = None
    # Names of knobs that may differ from the checkpoint's when a run is resumed, such as optim.lr.
    accept: tuple[str, ...] = ()
    seed: int = 0  # Seed of the order of the data, of augmentation and of dropout.
    # Number format of the computation. auto takes bf16 on a GPU that supports it, fp16 on other
    # GPUs, and fp32 on a CPU.
    precision: Precision = "auto"
    # Make results on a GPU the same bit by bit, a little slower. Those on a CPU always are.
    deterministic: bool = False
    profile: bool = False  # Trace some updates and print where their time goes (docs/profiling.md).
    print_config: bool = False  # Print every knob with its value as a recipe, and stop.
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: the data is a stream and loop.max_steps is not set, or `accept` has the old
                name of a knob.
        """
        for key in self.accept:
            if key in RENAMED:
                raise InputError(f"accept: {key} is now {RENAMED[key]}; rename it")
        if self.data.streaming and self.loop.max_steps is None:
            raise InputError(
                "loop.max_steps must be set with data.streaming: the number of updates in an epoch "
                "of a stream is known only at its end"
            )

    def to_yaml(self) -> str:
        """Return a recipe with every knob."""
        settings = {k: v for k, v in asdict(self).items() if k not in START_KNOBS}
        return yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True)

    def flat(self) -> dict[str, str | float | int | None]:
        """Return every knob by its full name, for trackers."""
        return dict(_flat("", {k: v for k, v in asdict(self).items() if k not in START_KNOBS}))


C = TypeVar("C", bound=Config)


def parse(arguments: Sequence[str]) -> Config:
    """Parse `[RECIPE.yaml] --key.sub=value …`.

    Raises:
        InputError: a recipe is missing, or has an unknown key or a wrong value.
        SystemExit: the command line has an unknown key or a wrong value (status 2), or --help (0).
    """
    return parse_as(Config, arguments)


def parse_as(kind: type[C], arguments: Sequence[str], prog: str = PROG) -> C:
    """Parse the same arguments as a subclass of Config.

    Args:
        kind: the dataclass; --help shows the knobs that it adds to Config first.
        arguments: of the command line.
        prog: the program's name in the usage line.

    Raises:
        InputError: as parse().
        SystemExit: as parse().
    """
    arguments = list(arguments)
    if ALL in arguments:
        print_usage(f"{prog} [RECIPE] [--KNOB=VALUE ...]", kind.__doc__ or "")
        print_knobs(kind, every_knob(kind))
        sys.exit(0)
    if any(word in arguments for word in HELP):
        print_help(kind, prog)
        sys.exit(0)
    recipe: list[str] = []
    if arguments and not arguments[0].startswith("-"):
        recipe = recipe_arguments(find_recipe(arguments.pop(0)), Config)
    return parse_dataclass(kind, recipe + arguments, prog)


def print_help(kind: type[Config], prog: str) -> None:
    """Print the recipes, the commands, and the knobs that people set."""
    print_usage(f"{prog} [RECIPE] [--KNOB=VALUE ...]", kind.__doc__ or "")
    recipes = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    recipe = f"A YAML file of these keys, or one that comes with the project: {recipes}."
    print_table("Arguments", {"RECIPE": recipe})
    own = [f.name for f in fields(kind) if f.name not in Config.__dataclass_fields__]
    print_knobs(kind, {"This command's own options": own, **GROUPS})
    print_table(
        "More",
        {
            ALL: "Show every knob.",
            "--print_config": "Print every knob with its value as a recipe, and stop.",
        },
    )
    if kind is Config:
        print_table("Commands, as python -m trainer COMMAND", COMMANDS)


def find_recipe(name: str) -> Path:
    """Return the path of a recipe: a file, or the name of a recipe of this project.

    Raises:
        InputError: there is no such recipe.
    """
    for path in (Path(name), RECIPES / name, RECIPES / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.name for path in RECIPES.glob("*.yaml")))
    raise InputError(f"{name}: no such recipe; give a YAML file, or one of {known}")


def _flat(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, str | float | int | None]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
            yield f"{prefix}{key}", redact(shown) if isinstance(shown, str) else shown


def _plain(value: Any) -> Any:
    """Convert tuples to lists, for YAML."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def command_line() -> Config:
    """Parse this process's arguments; with --print_config print the config and exit.

    Raises:
        InputError: as parse().
    """
    config = parse(sys.argv[1:])
    if config.print_config:
        print(config.to_yaml(), end="")
        sys.exit(0)
    return config
