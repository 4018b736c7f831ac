"""Imports point left, and no file name shadows a module that somebody else needs."""

import ast
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
LAYERS = ("data", "eval", "trainer")
FILES = sorted(path for room in LAYERS for path in (REPOSITORY / room).rglob("*.py"))
NEIGHBOURS = {
    "datasets",
    "transformers",
    "accelerate",
    "torch",
    "jiwer",
    "rich",
    "tyro",
    "evaluate",
}


def imported(path: Path) -> set[str]:
    """Return the top-level packages that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_point_left(path: Path) -> None:
    room = LAYERS.index(path.relative_to(REPOSITORY).parts[0])
    assert not imported(path) & set(LAYERS[room + 1 :])


def test_data_knows_nothing_of_processes_and_models() -> None:
    for path in FILES:
        if path.relative_to(REPOSITORY).parts[0] == "data":
            assert not imported(path) & {"accelerate", "transformers"}, path


def test_no_file_beside_main_is_named_like_a_module_of_others() -> None:
    taken = set(sys.stdlib_module_names) | NEIGHBOURS | set(LAYERS)
    beside_main = {path.stem for path in (REPOSITORY / "trainer").glob("*.py")}
    assert not (beside_main - {"__init__", "__main__"}) & taken


def test_the_loop_fits_on_a_screen() -> None:
    limits = {"train": 40, "train_step": 40, "main": 60}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name in limits:
                assert (node.end_lineno or 0) - node.lineno < limits[node.name], node.name
