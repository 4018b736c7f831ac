"""A recipe and the command line make one Config."""

from pathlib import Path

import pytest

from data.commands.inspect_survey import InspectConfig
from data.config_parser import RENAMED, knobs, parse_dataclass
from data.errors import InputError
from eval.label_errors.command import LabelErrorsConfig
from trainer.config import RECIPES, Config, find_recipe, parse


def recipe(folder: Path, text: str) -> str:
    """Write a recipe and return its path."""
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_command_line_comes_after_the_recipe(tmp_path: Path) -> None:
    path = recipe(tmp_path, "seed: 3\noptim:\n  lr: 1e-4\n  warmup: 7\n")
    config = parse([path, "--optim.lr=2e-4"])
    assert (config.seed, config.optim.lr, config.optim.warmup) == (3, 2e-4, 7)


def test_the_resolved_config_is_a_recipe_of_itself(tmp_path: Path) -> None:
    config = parse(["demo.yaml", "--data.update_clips=5", "--model.dropout=0.1"])
    assert parse([recipe(tmp_path, config.to_yaml())]) == config


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_that_comes_along_is_valid(path: Path) -> None:
    assert parse([str(path)]).run_dir.startswith("runs/")


def test_the_guides_recipe_has_the_guides_values() -> None:
    config = parse(["whisper-small-zh-TW-guide"])
    assert config.model.name == "openai/whisper-small"
    assert config.model.gradient_checkpointing
    assert (config.data.update_clips, config.data.pad, config.data.language) == (16, "30s", ("zh",))
    assert (config.optim.lr, config.optim.schedule, config.optim.warmup) == (1e-5, "constant", 50)
    assert (config.loop.max_steps, config.loop.eval_every) == (500, 500)
    assert (config.checkpoint.save_every, config.log.log_every) == (500, 25)
    assert (config.eval.max_length, config.eval.batch_seconds) == (225, 480)
    assert config.precision == "fp16"


def test_the_first_recipe_starts_on_a_laptop_and_does_not_choose_by_test() -> None:
    config = parse(["whisper-small-zh-TW"])
    assert (config.precision, config.data.pad) == ("auto", "bucket")
    assert (config.data.train_split, config.data.dev_split, config.data.test_split) == (
        "train",
        "dev",
        "test",
    )


def test_the_recipes_for_24_gb_train_what_they_say() -> None:
    lora, whole = (
        parse([f"whisper-large-v3-turbo{end}", "--data.corpus", "here"]) for end in ("-lora", "")
    )
    assert (lora.model.lora_rank, len(lora.model.lora_modules)) == (32, 6)
    assert (whole.model.lora_rank, whole.optim.name) == (None, "adamw8bit")
    assert lora.model.gradient_checkpointing
    assert whole.model.gradient_checkpointing


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("optim:\n  learning_rate: 1\n", "mine.yaml: unknown key optim.learning_rate"),
        ("optim:\n  lr: fast\n", "mine.yaml: optim.lr must be a number, got 'fast'"),
        ("sede: 1\n", "perhaps you meant seed"),
        ("data:\n  pad: 20s\n", "data.pad must be bucket or packed or 30s"),
        (
            "data:\n  repair: 0.2\n",
            "mine.yaml: data.repair was removed: .*; leave it",
        ),
        ("data:\n  padded_share: 0.1\n", "mine.yaml: data.padded_share was removed: .*; leave it"),
        ("data:\n  pad: mixed\n", "mine.yaml: data.pad=mixed was removed: .*; set data.pad to"),
        ("- a\n", "expected keys and values"),
        ("a: [\n", "not YAML"),
    ],
)
def test_a_wrong_recipe_is_told_with_its_file(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told.replace("[", r"\[")):
        parse([recipe(tmp_path, text)])


def test_a_recipe_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(InputError, match=r"nothing\.yaml: no such recipe.*demo\.yaml"):
        find_recipe("nothing.yaml")


def test_flags_need_no_value_and_yaml_words_are_taken() -> None:
    config = parse(["--profile", "--deterministic=true", "--data.dev_split=null"])
    assert config.profile
    assert config.deterministic
    assert config.data.dev_split is None


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_the_old_name_of_a_knob_is_answered_with_the_new_one(
    old: str, new: str, tmp_path: Path
) -> None:
    known = dict(knobs(Config))
    if "." not in old:  # of a command
        assert new in {**dict(knobs(InspectConfig)), **dict(knobs(LabelErrorsConfig))}
        return
    assert old not in known
    section, _, key = old.partition(".")
    path = recipe(tmp_path, f"{section}:\n  {key}: 1\n")
    with pytest.raises(InputError) as refused:
        parse([path])
    assert str(refused.value) == f"{path}: {old} is now {new}; rename it"
    for argument in (f"--{old}=1", f"--{old.replace('_', '-')}"):
        with pytest.raises(InputError) as refused:
            parse([argument, "1"])
        assert str(refused.value) == f"--{old} is now --{new}; rename it"
    with pytest.raises(InputError, match=rf"^accept: {old} is now {new}; rename it$"):
        parse(["--accept", old])


def test_the_old_name_of_a_commands_option_is_answered_with_the_new_one() -> None:
    with pytest.raises(InputError, match=r"^--check is now --scan; rename it$"):
        parse_dataclass(InspectConfig, ["corpus", "--check=header"])
    with pytest.raises(InputError, match=r"^--most is now --max_clips; rename it$"):
        parse_dataclass(LabelErrorsConfig, ["run", "--most", "3"])


@pytest.mark.parametrize(
    ("arguments", "removed"),
    [
        (["--data.repair=0.2"], "data.repair"),
        (["--data.repair", "0.2"], "data.repair"),
        (["--data.pad", "mixed"], "data.pad=mixed"),
    ],
)
def test_a_removed_knob_on_the_command_line_is_answered_with_the_reason(
    arguments: list[str], removed: str
) -> None:
    with pytest.raises(InputError, match=f"^command line: {removed} was removed: "):
        parse(arguments)


@pytest.mark.parametrize("argument", ["--optim.lrr=1", "--optim.lr=fast", "--data.pad=20s"])
def test_a_wrong_argument_leaves_with_a_status(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        parse([argument])
    assert leaving.value.code == 2
    assert argument.split("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "languages"),
    [
        (["--data.language=zh"], ("zh",)),
        (["--data.language", "zh", "en"], ("zh", "en")),
        (["--data.language=None"], ()),
        (["--data.language", "null"], ()),
        (["--data.language", "~", "--data.corpus", "a"], ()),
    ],
)
def test_a_knob_of_several_values_takes_one_or_none(
    arguments: list[str], languages: tuple[str, ...]
) -> None:
    assert parse(arguments).data.language == languages
