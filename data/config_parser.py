"""Dataclasses as knobs: from a recipe or a command line, with one set of errors.

A recipe is YAML whose nested keys are the knobs. Its values are read as text, as on the command
line, and turned into arguments that come before the command line's: the later one wins.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import tyro
import yaml

from data.errors import InputError

T = TypeVar("T")
NOTHING = ("", "null", "~")
NONE = (*NOTHING, "none")
# names of before, of knobs and of commands' own arguments; a recipe or a command line with one is
# refused with the new name, and a checkpoint with one is read
RENAMED = {
    "model.silence": "model.silence_states",
    "data.hours": "data.hours_per_epoch",
    "data.window": "data.shuffle_buffer",
    "data.check": "data.scan",
    "data.missing": "data.missing_audio",
    "data.max_broken": "data.max_broken_share",
    "data.timestamps": "data.timestamp_probability",
    "data.prompts": "data.prompt_probability",
    "data.padding": "data.max_padding",
    "data.pass_seconds": "data.max_seconds_per_forward",
    "data.pass_tokens": "data.max_tokens_per_forward",
    "data.pass_quadratic": "data.quadratic_memory_seconds",
    "loop.max_failed": "loop.max_nonfinite_steps",
    "eval.unit": "eval.error_unit",
    "eval.noise": "eval.non_speech",
    "eval.forget_corpus": "eval.forgetting_corpus",
    "eval.forget_split": "eval.forgetting_split",
    "eval.forget_language": "eval.forgetting_language",
    "eval.forget_task": "eval.forgetting_task",
    "eval.forget_clips": "eval.forgetting_clips",
    "check": "scan",  # of data inspect
    "most": "max_clips",  # of eval label-errors
}
# knobs and values that are no more, and why; recipes of older runs name them
REMOVED = {
    "data.repair": "it cost time and made no model better (docs/ablation.md); leave it out",
    "data.pad=mixed": "bucket costs less and is as good (docs/ablation.md); set data.pad to bucket",
    "data.padded_share": "it belonged to data.pad=mixed, which is no more; leave it out",
}
WORDS = {"true": "True", "false": "False", "null": "None", "none": "None", "~": "None"}


def parse_dataclass(cls: type[T], arguments: Sequence[str], prog: str | None = None) -> T:
    """Parse arguments into a dataclass; true, false and null are accepted as YAML writes them.

    Args:
        cls: the dataclass.
        arguments: of the command line.
        prog: what a person typed before them, which help and errors show; None: the script.

    Raises:
        InputError: a knob was renamed or removed.
        SystemExit: an argument is wrong (status 2), or asks for help (0).
    """
    known = dict(knobs(cls))
    joined = _joined(arguments, known)
    for argument in joined:
        key, _, value = argument.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if argument.startswith("--"):
            _refuse_removed("command line", key, value)
        if argument.startswith("--") and key not in known and RENAMED.get(key) in known:
            raise InputError(f"--{key} is now --{RENAMED[key]}; rename it")
    return tyro.cli(
        cls,
        prog=prog,
        args=_as_tyro(joined, known),
        use_underscores=True,
        config=(tyro.conf.FlagConversionOff,),
    )


def recipe_arguments(path: Path, cls: type) -> list[str]:
    """Return a recipe's keys as command-line arguments.

    Raises:
        InputError: it is not YAML, or has an unknown key or a value of the wrong type.
    """
    try:
        recipe = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not YAML: {reason}") from error
    if not isinstance(recipe, dict):
        raise InputError(f"{path}: expected keys and values, got {recipe!r}")
    known = dict(knobs(cls))
    return [
        argument
        for key, value in _flatten(recipe, known)
        for argument in _argument(path, key, value, known)
    ]


def knobs(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the type of every knob."""
    hints = get_type_hints(cls)
    for each in fields(cls):
        kind = hints[each.name]
        if is_dataclass(kind):
            yield from knobs(kind, f"{prefix}{each.name}.")  # type: ignore[arg-type]  # it is a class
        else:
            yield f"{prefix}{each.name}", kind


def current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by the present names of their knobs: a checkpoint may hold names of before."""
    return {RENAMED.get(key, key): value for key, value in values.items()}


def _flatten(recipe: dict[str, Any], known: dict[str, Any], prefix: str = "") -> Iterator[Any]:
    for key, value in recipe.items():
        name = f"{prefix}{key}"
        section = any(knob.startswith(f"{name}.") for knob in known)
        if isinstance(value, dict) and section:
            yield from _flatten(value, known, f"{name}.")
        elif not (section and value == ""):  # a section with nothing but comments in it
            yield name, value


def _refuse_removed(place: str, key: str, value: Any) -> None:
    for name in (key, f"{key}={value}"):
        if name in REMOVED:
            raise InputError(f"{place}: {name} was removed: {REMOVED[name]}")


def _argument(path: Path, key: str, value: Any, known: dict[str, Any]) -> list[str]:
    _refuse_removed(str(path), key, value)
    if key not in known:
        if RENAMED.get(key) in known:
            raise InputError(f"{path}: {key} is now {RENAMED[key]}; rename it")
        near = get_close_matches(key, known, n=1)
        section = [k for k in known if k.rpartition(".")[0] == key.rpartition(".")[0]]
        hint = (
            f"perhaps you meant {near[0]}" if near else f"known keys: {', '.join(section or known)}"
        )
        raise InputError(f"{path}: unknown key {key}; {hint}")
    values = value if isinstance(value, list) else [value]
    if isinstance(value, dict) or (isinstance(value, list) and not _is_tuple(known[key])):
        raise InputError(f"{path}: {key} takes one value, got {value!r}")
    for each in values:
        if not _fits(each, known[key]):
            raise InputError(f"{path}: {key} must be {_describe(known[key])}, got {each!r}")
    if _is_tuple(known[key]):
        return [f"--{key}", *([] if value in NOTHING else values)]
    return [f"--{key}={_word(value, known[key])}"]


def _fits(text: str, kind: Any) -> bool:
    """Tell whether a text can be read as a type."""
    if _is_tuple(kind):
        return isinstance(text, str)
    options = _options(kind)
    if text.lower() in NONE and type(None) in options:
        return True
    return any(_reads(text, option) for option in options)


def _reads(text: str, option: Any) -> bool:
    if option is bool:
        return text.lower() in ("true", "false")
    if option in (int, float):
        try:
            option(text)
        except ValueError:
            return False
        return True
    return option is str or text == option


def _options(kind: Any) -> tuple[Any, ...]:
    """Return what a union or a Literal admits; a plain type admits itself."""
    return get_args(kind) or (kind,)


def _is_tuple(kind: Any) -> bool:
    return getattr(kind, "__origin__", None) is tuple


def _describe(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    options = [o for o in _options(kind) if o is not ...]
    return " or ".join(names.get(o, "null" if o is type(None) else str(o)) for o in options)


def _word(text: str, kind: Any) -> str:
    """Turn YAML's true, false and null into Python's, where the type has them."""
    options = _options(kind)
    word = WORDS.get(text.lower(), text) if text else "None"
    if word in ("True", "False") and bool in options:
        return word
    return word if word == "None" and type(None) in options else text


def _kind(argument: str, known: dict[str, Any]) -> Any:
    """Return the type of the knob that an argument names, or None."""
    if not argument.startswith("--"):
        return None
    return known.get(_name(argument))


def _name(argument: str) -> str:
    """Return the dotted name of the knob in an argument without its value."""
    return argument.removeprefix("--").replace("-", "_")


def _joined(arguments: Sequence[str], known: dict[str, Any]) -> list[str]:
    """Join a knob and its value: --profile true → --profile=true; alone, --profile=True."""
    joined: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        kind = _kind(argument, known)
        follows = bool(rest) and not rest[0].startswith("--")
        one = not _is_tuple(kind) or (rest[:1] and rest[0].lower() in NONE)
        if kind is bool and not (follows and _fits(rest[0], bool)):
            argument += "=True"
        elif kind is not None and follows and one:
            argument += f"={rest.pop(0)}"
        joined.append(argument)
    return joined


def _as_tyro(arguments: Sequence[str], known: dict[str, Any]) -> list[str]:
    """Rewrite --profile=true → --profile=True, --language=null → --language=None."""
    rewritten = []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        kind = _kind(key, known)
        if separator and _is_tuple(kind) and value.lower() in NONE:
            rewritten.append(key)  # no values
            continue
        known_value = separator and kind is not None
        rewritten.append(f"{key}={_word(value, kind)}" if known_value else argument)
    return rewritten
