"""`--help` of a command: the knobs that people set, each with the comment beside its field.

tyro's own page has no shorter form, has one group a dataclass, and joins no wrapped comments.
"""

import inspect
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from data.config_parser import knobs, parse_dataclass
from data.errors import InputError

T = TypeVar("T")
Commands = Mapping[str, tuple[type, Callable[[Any], object]]]
HELP = ("-h", "--help")
ALL = "--help-all"
getsource = cache(inspect.getsource)  # 2 ms each, and a class has many fields


def parse_command(cls: type[T], arguments: Sequence[str], prog: str) -> T:
    """Parse a command's arguments; --help shows its own knobs, --help-all every knob.

    Raises:
        InputError: as parse_dataclass().
        SystemExit: an argument is wrong (status 2), or asks for help (0).
    """
    if ALL in arguments:
        print_command_help(cls, prog, every_knob(cls))
        sys.exit(0)
    if any(word in arguments for word in HELP):
        print_own_help(cls, prog)
        sys.exit(0)
    return parse_dataclass(cls, arguments, prog)


def print_own_help(cls: type, prog: str) -> None:
    """Print a command's help without the knobs of its sections."""
    print_command_help(cls, prog, {"Options": _own(cls)})
    sections = sorted({name.partition(".")[0] for name, _ in knobs(cls) if "." in name})
    if sections:
        options = " and ".join(f"--{section}.*" for section in sections)
        print_table("More", {ALL: f"Show every option, {options} too."})


def print_command_help(cls: type, prog: str, groups: Mapping[str, Sequence[str]]) -> None:
    """Print a command's usage, its arguments, and groups of its knobs."""
    kinds = dict(knobs(cls))
    arguments = (_argument(name, kinds[name]) for name in _positional(cls))
    usage = " ".join((prog, *arguments, "[--OPTION=VALUE ...]"))
    print_usage(usage, cls.__doc__ or "")
    print_knobs(cls, {"Arguments": _positional(cls), **groups})


def every_knob(cls: type) -> dict[str, list[str]]:
    """Return all knobs, those of each section under what the section is for."""
    groups = {"Options": _own(cls)}
    for name, _ in knobs(cls):
        if "." in name:
            owner, _ = _owner(cls, name)
            title = f"--{name.rpartition('.')[0]}.*  {(owner.__doc__ or '').rstrip('.')}"
            groups.setdefault(title, []).append(name)
    return groups


def find_command(
    name: str, commands: Commands, renamed: Mapping[str, str], prog: str
) -> tuple[type, Callable[[Any], object]]:
    """Return the dataclass and the function of a command.

    Raises:
        InputError: there is none of this name.
    """
    refuse_renamed(name, renamed, prog)
    if name not in commands:
        problem = f"{name!r} is no command" if name else "no command is given"
        raise InputError(f"{prog}: {problem}; give one of {', '.join(commands)}")
    return commands[name]


def refuse_renamed(name: str, renamed: Mapping[str, str], prog: str) -> None:
    """Refuse the name that a command had before.

    Raises:
        InputError: it is one.
    """
    if name in renamed:
        raise InputError(f"{prog} {name} is now {prog} {renamed[name]}; use that name")


def print_usage(usage: str, purpose: str) -> None:
    """Print how a command is typed, and what it does."""
    _print(f"Usage: {usage}", "", " " * 7)
    print()
    _print(purpose, "", "")


def print_commands(commands: Commands, prog: str) -> None:
    """Print each command with what it does."""
    print_table("Commands", {name: cls.__doc__ or "" for name, (cls, _) in commands.items()})
    print()
    _print(f"{prog} COMMAND --help prints the options of a command.", "", "")


def print_table(title: str, rows: Mapping[str, str]) -> None:
    """Print names and their sentences, side by side, below a title."""
    print(f"\n{title}:")
    width = max(map(len, rows)) + 4
    for name, sentence in rows.items():
        _print(sentence, f"  {name}".ljust(width), " " * width)


def print_knobs(cls: type, groups: Mapping[str, Sequence[str]]) -> None:
    """Print groups of knobs, each with its type, its default and its sentence."""
    kinds = dict(knobs(cls))
    for title, names in groups.items():
        if names:
            print(f"\n{title}:")
        for name in names:
            _print(_heading(cls, name, kinds[name]), "  ", "      ")
            _print(sentence_of(cls, name), "      ", "      ")


def sentence_of(cls: type, name: str) -> str:
    """Return the comment on or above a knob's field, as tyro reads it."""
    owner, field = _owner(cls, name)
    lines = getsource(owner).splitlines()
    (at,) = (n for n, line in enumerate(lines) if line.startswith(f"    {field}: "))
    _, mark, sentence = lines[at].partition("  # ")
    if mark:
        return sentence
    above: list[str] = []
    while (line := lines[at - 1 - len(above)].strip()).startswith("#"):
        above.insert(0, line.removeprefix("#").strip())
    return " ".join(above)


def _heading(cls: type, name: str, kind: Any) -> str:
    """Return a knob's name, type and default."""
    owner, field = _owner(cls, name)
    (each,) = (each for each in fields(owner) if each.name == field)
    if name in _positional(cls):
        return _argument(name, kind)
    default = "required" if each.default is MISSING else f"default: {_value(each.default)}"
    return f"--{name} {_type(kind)} ({default})"


def _argument(name: str, kind: Any) -> str:
    """Return a positional argument as usage lines write it: CORPUS ... for any number."""
    return f"{name.upper()} ..." if get_origin(kind) is tuple else name.upper()


def _owner(cls: type, name: str) -> tuple[type, str]:
    """Return the dataclass whose source defines a knob, and the name of its field there."""
    section, _, field = name.rpartition(".")
    for part in section.split(".") if section else ():
        cls = get_type_hints(cls)[part]
    (owner, *_) = (each for each in cls.__mro__ if field in inspect.get_annotations(each))
    return owner, field


def _positional(cls: type) -> list[str]:
    """Return the fields that are given without their names: tyro's Positional is an annotation."""
    hints = get_type_hints(cls, include_extras=True)
    return [each.name for each in fields(cls) if hasattr(hints[each.name], "__metadata__")]


def _own(cls: type) -> list[str]:
    positional, hints = _positional(cls), get_type_hints(cls)
    names = [each.name for each in fields(cls) if not is_dataclass(hints[each.name])]
    return [name for name in names if name not in positional]


def _type(kind: Any) -> str:
    """Return a type as usage lines write it: INT, {bucket,30s}, TEXT ... for any number."""
    options = [option for option in get_args(kind) if option is not type(None)]
    if get_origin(kind) is tuple:
        return " ".join("..." if each is ... else _type(each) for each in options)
    if get_origin(kind) is Literal:
        joined = ",".join(map(str, options))
        return f"{{{joined if len(joined) < 60 else joined.replace(',', ', ')}}}"  # may be wrapped
    if options:
        return _type(options[0])
    return {bool: "{true,false}", int: "INT", float: "FLOAT"}.get(kind, "TEXT")


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_value, value)) or "none"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value) or "none"


def _print(text: str, first: str, later: str) -> None:
    """Print a paragraph as wide as the terminal, 100 columns at most."""
    width = min(100, shutil.get_terminal_size().columns)
    print(
        textwrap.fill(
            text,
            width,
            initial_indent=first,
            subsequent_indent=later,
            break_on_hyphens=False,
            break_long_words=False,
        )
    )
