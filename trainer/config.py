"""All knobs of a run: a recipe, then the command line."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from data.config import DataConfig
from data.config_parser import parse_dataclass, recipe_arguments
from data.errors import InputError, redact
from eval.config import EvalConfig
from eval.device import Precision
from trainer.checkpoint.rotation import CheckpointConfig
from trainer.metrics.meter import LogConfig
from trainer.model import ModelConfig
from trainer.optimizer import OptimConfig
from trainer.publish.export import PublishConfig
from trainer.run import LoopConfig

RECIPES = Path(__file__).parent / "recipes"
STARTS = ("print_config", "resume", "accept")  # say how to start, not what to train


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Fine-tune Whisper. Give a recipe (a YAML file with these keys), arguments, or both."""

    run_dir: str = "runs/whisper"  # everything written goes here
    resume: str | None = None  # auto: from the newest checkpoint, if any; or a checkpoint's folder
    accept: tuple[str, ...] = ()  # knobs that a resume may find changed, by name: optim.lr
    seed: int = 0  # of the plan of updates and of dropout
    precision: Precision = "auto"  # auto: bf16 or fp16 on a GPU, as it can; fp32 on a CPU
    deterministic: bool = False  # on a GPU: same bits, a little slower; a CPU always is
    profile: bool = False  # trace some updates and print where their time goes
    print_config: bool = False  # print the resolved config as a recipe, and stop
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)

    def __post_init__(self) -> None:
        """Refuse a run without an end.

        Raises:
            InputError: its data is a stream, and nobody said how many updates it makes.
        """
        if self.data.streaming and self.loop.max_steps is None:
            raise InputError(
                "loop.max_steps must be set with data.streaming: how many updates an epoch of a "
                "stream holds is known only after it"
            )

    def to_yaml(self) -> str:
        """Return a recipe with every knob."""
        settings = {k: v for k, v in asdict(self).items() if k not in STARTS}
        return yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True)

    def flat(self) -> dict[str, str | float | int | None]:
        """Return every knob by its full name, as trackers take it."""
        return dict(_flat("", {k: v for k, v in asdict(self).items() if k not in STARTS}))


C = TypeVar("C", bound=Config)


def parse(arguments: Sequence[str]) -> Config:
    """Parse `[RECIPE.yaml] --key.sub=value …`.

    Raises:
        InputError: a recipe is missing, or has an unknown key or a wrong value.
        SystemExit: the command line has one (status 2), or asks for help (0).
    """
    return parse_as(Config, arguments)


def parse_as(kind: type[C], arguments: Sequence[str]) -> C:
    """Parse the same arguments, and more, as a kind of Config.

    Raises:
        InputError: as parse().
    """
    arguments = list(arguments)
    recipe: list[str] = []
    if arguments and not arguments[0].startswith("-"):
        recipe = recipe_arguments(find_recipe(arguments.pop(0)), Config)
    return parse_dataclass(kind, recipe + arguments)


def find_recipe(name: str) -> Path:
    """Return a recipe's path: as given, or by its name among those that come with the project.

    Raises:
        InputError: there is none.
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
            told = ", ".join(map(str, value)) if isinstance(value, tuple) else value
            yield f"{prefix}{key}", redact(told) if isinstance(told, str) else told


def _plain(value: Any) -> Any:
    """Turn tuples into lists, which YAML can write."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return list(value) if isinstance(value, tuple) else value


def command_line() -> Config:
    """Parse this process's arguments; print the config and stop where they ask for it.

    Raises:
        InputError: as parse().
    """
    config = parse(sys.argv[1:])
    if config.print_config:
        print(config.to_yaml(), end="")
        sys.exit(0)
    return config
