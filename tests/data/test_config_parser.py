"""Knobs from a recipe and a command line: one set of errors, and the later one wins."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from data.config_parser import knobs, parse_dataclass, recipe_arguments
from data.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    """A section."""

    names: tuple[str, ...] = ()  # some texts
    language: str | None = None  # a text or nothing
    clips: int | None = 5  # a number or nothing
    seconds: float = 1.0  # a number
    check: Literal["no", "header", "none"] = "no"  # one of a few
    word: str = "word"  # a text


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    """All knobs."""

    seed: int = 0  # a whole number
    deep: bool = False  # yes or no
    inner: Inner = field(default_factory=Inner)


def arguments(folder: Path, text: str) -> list[str]:
    """Return a recipe's arguments."""
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return recipe_arguments(folder / "recipe.yaml", Outer)


def parsed(folder: Path, text: str, *more: str) -> Outer:
    """Return the config of a recipe and a command line."""
    return parse_dataclass(Outer, [*arguments(folder, text), *more])


def refused(folder: Path, text: str, sentence: str) -> None:
    """Expect one sentence, with the recipe's name."""
    with pytest.raises(InputError, match=sentence) as told:
        arguments(folder, text)
    assert str(told.value).startswith(f"{folder / 'recipe.yaml'}: ")
    assert "\n" not in str(told.value)


def test_every_knob_has_a_dotted_name() -> None:
    assert [name for name, _ in knobs(Outer)][:4] == [
        "seed",
        "deep",
        "inner.names",
        "inner.language",
    ]


def test_a_recipe_sets_knobs_of_every_type(tmp_path: Path) -> None:
    text = """
    seed: 7
    deep: true
    inner:
      names: [a, "b c", "3"]
      language: zh
      clips: null
      seconds: 1e-5
      check: header
      word: "true"
    """
    inner = Inner(
        names=("a", "b c", "3"),
        language="zh",
        clips=None,
        seconds=1e-5,
        check="header",
        word="true",
    )
    assert parsed(tmp_path, text) == Outer(seed=7, deep=True, inner=inner)


@pytest.mark.parametrize(
    ("text", "language"),
    [("no", "no"), ("null", None), ("~", None), ("None", None), ("", None), ("'on'", "on")],
)
def test_norwegian_is_a_language_and_null_is_none(
    text: str, language: str | None, tmp_path: Path
) -> None:
    assert parsed(tmp_path, f"inner: {{language: {text}}}").inner.language == language


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("false", False), ("FALSE", False)]
)
def test_yes_and_no_are_yamls(text: str, value: bool, tmp_path: Path) -> None:
    assert parsed(tmp_path, f"deep: {text}").deep is value


def test_a_choice_named_like_nothing_stays_a_choice(tmp_path: Path) -> None:
    for word in ("none", "no"):
        assert parsed(tmp_path, f"inner: {{check: {word}}}").inner.check == word
        assert parse_dataclass(Outer, [f"--inner.check={word}"]).inner.check == word


def test_one_text_is_a_list_of_one_and_an_empty_list_is_empty(tmp_path: Path) -> None:
    assert parsed(tmp_path, "inner: {names: one two}").inner.names == ("one two",)
    assert parsed(tmp_path, "inner: {names: []}").inner.names == ()
    assert parsed(tmp_path, "inner:\n  names:\n    - 中\n    - b=c").inner.names == ("中", "b=c")


@pytest.mark.parametrize("text", ["", "null", "~"])
def test_a_list_without_a_value_is_empty(text: str, tmp_path: Path) -> None:
    assert parsed(tmp_path, f"inner: {{names: {text}}}").inner.names == ()


def test_a_section_of_comments_sets_nothing(tmp_path: Path) -> None:
    assert parsed(tmp_path, "inner:\n  # seconds: 2\nseed: 1") == Outer(seed=1)


def test_the_command_line_wins_over_the_recipe(tmp_path: Path) -> None:
    text = "seed: 1\ndeep: true\ninner: {names: [a, b], clips: 3, seconds: 2}"
    more = ["--seed=2", "--deep=false", "--inner.clips=null", "--inner.names", "c"]
    outer = parsed(tmp_path, text, *more)
    assert outer == Outer(seed=2, inner=Inner(names=("c",), clips=None, seconds=2.0))


@pytest.mark.parametrize(
    "argument",
    [
        ["--deep"],
        ["--deep=true"],
        ["--deep=True"],
        ["--deep", "True"],
        ["--deep", "true"],
    ],
)
def test_yes_can_be_said_in_any_way(argument: list[str]) -> None:
    assert parse_dataclass(Outer, [*argument, "--seed=3"]) == Outer(deep=True, seed=3)


@pytest.mark.parametrize(
    "argument",
    [
        ["--inner.language=null"],
        ["--inner.language=None"],
        ["--inner.language", "None"],
        ["--inner.language", "null"],
    ],
)
def test_nothing_can_be_said_in_any_way(argument: list[str]) -> None:
    assert parse_dataclass(Outer, argument).inner.language is None


def test_underscores_and_hyphens_are_one() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Long:
        two_words: bool = False

    for name in ("--two_words=true", "--two-words=true", "--two-words"):
        assert parse_dataclass(Long, [name]).two_words is True


def test_a_wrong_command_line_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for argument in ("--sed=1", "--seed=x", "--inner.check=other"):
        with pytest.raises(SystemExit) as left:
            parse_dataclass(Outer, [argument])
        assert left.value.code == 2
        assert argument[2:5] in capsys.readouterr().err


def test_an_unknown_key_is_named_with_what_was_meant(tmp_path: Path) -> None:
    refused(tmp_path, "inner: {secnds: 1}", "unknown key inner.secnds; perhaps you meant inner.sec")
    refused(tmp_path, "sede: 1", "unknown key sede; perhaps you meant seed")
    refused(
        tmp_path, "inner: {qqqqqqqqqqqq: 1}", "unknown key .*; known keys: inner.names, inner.lan"
    )
    refused(tmp_path, "zzz: {a: 1}", "unknown key zzz; known keys: seed, deep")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: 1.5", "seed must be a whole number, got '1.5'"),
        ("seed: 1e5", "seed must be a whole number, got '1e5'"),
        ("seed: null", "seed must be a whole number, got 'null'"),
        ("deep: 1", "deep must be true or false, got '1'"),
        ("deep: yes", "deep must be true or false, got 'yes'"),
        ("inner: {seconds: fast}", "inner.seconds must be a number, got 'fast'"),
        ("inner: {clips: many}", "inner.clips must be a whole number or null, got 'many'"),
        ("inner: {check: maybe}", "inner.check must be no or header or none, got 'maybe'"),
        ("seed: [1, 2]", r"seed takes one value, got \['1', '2'\]"),
        ("seed: {a: 1}", "seed takes one value, got {'a': '1'}"),
        ("inner: {names: {a: 1}}", "inner.names takes .*, got {'a': '1'}"),
    ],
)
def test_a_wrong_value_is_a_sentence_with_the_key(text: str, sentence: str, tmp_path: Path) -> None:
    refused(tmp_path, text, sentence)


def test_a_list_of_lists_is_a_sentence_in_words(tmp_path: Path) -> None:
    refused(tmp_path, "inner: {names: [[a]]}", r"inner.names must be text, got \['a'\]")


def test_a_value_where_a_section_is_wanted_is_a_sentence(tmp_path: Path) -> None:
    refused(tmp_path, "inner: 5", "inner")


@pytest.mark.parametrize("text", ["a: [1", "\t- x", "{a: b", "a: b: c", "? [a]: b\n: c\n  d"])
def test_what_is_no_yaml_is_a_sentence(text: str, tmp_path: Path) -> None:
    refused(tmp_path, text, "not YAML: ")


def test_what_is_no_text_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"seed: \xff")
    with pytest.raises(InputError, match=r"recipe\.yaml: not YAML"):
        recipe_arguments(tmp_path / "recipe.yaml", Outer)


@pytest.mark.parametrize("text", ["", "# nothing", "just text", "- a\n- b"])
def test_what_has_no_keys_is_a_sentence(text: str, tmp_path: Path) -> None:
    refused(tmp_path, text, "expected keys and values, got ")
