"""`python -m trainer fit` finds the largest passes that fit; later runs use them."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate import Accelerator
from transformers import WhisperConfig

from data.batch import Shape
from data.config import DataConfig
from data.errors import InputError
from tests.forked import run_module
from trainer.commands.find_batch_size import search
from trainer.model import ModelConfig
from trainer.optimizer import OptimConfig
from trainer.plan.forward_pass_budget import FittingBatch, fit_path, pass_budget, with_fitted_budget

SHAPES = ["rising", "bent", "odd"]  # names that are the same in every process


@pytest.mark.parametrize("most", [1, 2, 7, 100])
@pytest.mark.parametrize(
    "memory", [lambda n: 5.0 + n, lambda n: 0.01 * n**3, lambda n: 50.0 + n // 7], ids=SHAPES
)
def test_the_search_finds_the_largest_that_fits(most: int, memory: Callable[[int], float]) -> None:
    for threshold in range(most + 3):
        tried: list[int] = []

        def peak(rows: int, tried: list[int] = tried, threshold: int = threshold) -> float:
            tried.append(rows)
            return memory(rows) if rows <= 2 * threshold else math.inf  # out of memory

        limit = memory(threshold)
        expected = max([n for n in range(1, most + 1) if memory(n) <= limit], default=0)
        assert search(peak, limit, most) == min(expected, 2 * threshold)
        assert len(tried) == len(set(tried)) <= 13
        assert max(tried) <= most


def found(need: Callable[[float], float], most: int = 10**6) -> list[FittingBatch]:
    """Return the largest batches for a memory need per row, of 1,000 units."""
    shapes = [Shape(int(1000 / need(s)), round(100 * s), 10 + round(4 * s)) for s in (2, 5, 11, 30)]
    return [FittingBatch(shape=s, most=most, gigabytes=1.0, took=1.0) for s in shapes]


@pytest.mark.parametrize(
    "need", [lambda s: s, lambda s: 3 + s, lambda s: s + s**2 / 20], ids=SHAPES
)
def test_the_budget_of_every_bucket_is_close_to_what_fits(need: Callable[[float], float]) -> None:
    tried = found(need)
    budget = pass_budget(tried)
    room, q = budget["max_seconds_per_forward"], budget["quadratic_memory_seconds"]
    assert room is not None
    for each in tried:
        seconds = each.shape.frames / 100
        weight = seconds + (seconds**2 / q if q else 0.0)
        rows = int(room / weight + 1e-9)
        assert rows <= each.shape.rows
        assert rows * each.shape.tokens <= (budget["max_tokens_per_forward"] or 0)
        if need(30) != 33:  # a price of each row alone is not what seconds can tell
            assert rows >= 0.85 * each.shape.rows - 1


def test_with_enough_memory_a_pass_is_an_update() -> None:
    tried = [FittingBatch(shape=Shape(8, 700, 40), most=8, gigabytes=1.0, took=1.0)]
    assert pass_budget(tried) == {
        "max_seconds_per_forward": 56.0,
        "quadratic_memory_seconds": None,
        "max_tokens_per_forward": 320,
    }


def test_a_budget_is_saved_and_used_by_runs_without_pass_seconds(
    tone_corpus: Path, blank_model: Path, tmp_path: Path
) -> None:
    arguments = [
        *(f"--run_dir={tmp_path / 'run'}", f"--model.name={blank_model}"),
        *(f"--data.corpus={tone_corpus}", "--data.dev_split=None", "--data.test_split=None"),
        *("--data.update_clips=4", "--data.workers=0"),
    ]
    done = run_module("trainer", "find-batch-size", *arguments)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / ".fit").iterdir()
    told = json.loads(path.read_text())
    assert {each["most"] for each in told["tried"]} == {4}
    assert max(each["shape"][1] for each in told["tried"]) == 3000
    assert "30.00" in done.stdout
    config = with_fitted_budget(DataConfig(), path)
    assert config.max_seconds_per_forward == told["max_seconds_per_forward"] > 0
    set_by_hand = DataConfig(max_seconds_per_forward=9.0)
    assert with_fitted_budget(set_by_hand, path).max_seconds_per_forward == 9.0
    assert with_fitted_budget(DataConfig(), tmp_path / "none.json") == DataConfig()
    none = run_module("trainer", "find-batch-size", *arguments, "--gigabytes=0.01")
    assert none.returncode == 2
    assert "needs more than the limit of 0.0 GB" in none.stderr + none.stdout
    assert "Traceback" not in none.stderr


@pytest.mark.parametrize("content", ["", "{", "[]", '{"max_seconds_per_forward": 1}'])
def test_a_damaged_budget_is_an_input_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    path.write_text(content)
    with pytest.raises(
        InputError, match=r"cpu.json: not a budget written by find-batch-size: remove it"
    ):
        with_fitted_budget(DataConfig(), path)


def kept_at(folder: Path, architecture: WhisperConfig, name: str = "m", **knobs: object) -> Path:
    """Return the file of a model's budget."""
    model = ModelConfig(name=name, **knobs)  # type: ignore[arg-type]
    return fit_path(folder / "run", Accelerator(cpu=True), architecture, model, OptimConfig())


def test_models_of_the_same_architecture_share_a_budget(
    tmp_path: Path,
) -> None:
    small, wide = WhisperConfig(d_model=64), WhisperConfig(d_model=128)
    more_words = WhisperConfig(d_model=64, vocab_size=51866)
    names = ("/a/model", "/b/model", "openai/whisper-small")
    assert len({kept_at(tmp_path, small, name) for name in names}) == 1
    assert len({kept_at(tmp_path, each, "/a/model") for each in (small, wide, more_words)}) == 3


def test_trained_parameters_and_checkpointing_have_their_own_budgets(tmp_path: Path) -> None:
    kinds = [
        {},
        {"dropout": 0.1},
        {"silence_states": False},
        {"gradient_checkpointing": True},
        {"freeze_encoder": True},
        {"freeze": ("proj_out",)},
        {"lora_rank": 4},
        {"lora_rank": 4, "lora_dropout": 0.1},
    ]
    accelerator, eight = Accelerator(cpu=True), OptimConfig(name="adamw8bit")
    paths = {kept_at(tmp_path, WhisperConfig(), **each) for each in kinds}
    paths.add(fit_path(tmp_path / "run", accelerator, WhisperConfig(), ModelConfig(), eight))
    assert len(paths) == len(kinds) + 1
