"""Imports point left without cycles, no file shadows another module, and code is short."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

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

FUNCTION_LINES, PARAMETERS, FILE_LINES, FOLDER_FILES = 40, 6, 200, 20
LIMITS = {"train": 40, "train_step": 30, "main": 60}  # lines
# What is over a limit today. A bound may only fall; what is no longer over one is taken out
LONG_FUNCTIONS: dict[str, int] = {}
LONG_FILES = {
    "data/audio/augment.py": 205,
    "data/command_help.py": 210,
    "data/commands/demo_corpus.py": 215,
    "data/commands/inspect_survey.py": 215,
    "data/config.py": 245,
    "data/config_parser.py": 250,
    "data/dataloader.py": 225,
    "data/manifest.py": 220,
    "data/sampling/epoch_plan.py": 240,
    "data/screening/filters.py": 210,
    "eval/__main__.py": 240,
    "eval/generate.py": 240,
    "eval/metrics/compare.py": 210,
    "eval/probes/hallucination.py": 210,
    "eval/report/figures.py": 225,
    "eval/report/page.py": 215,
    "eval/transcribe/command.py": 205,
    "trainer/checkpoint/atomic_folder.py": 205,
    "trainer/checkpoint/manager.py": 205,
    "trainer/checkpoint/rotation.py": 250,
    "trainer/commands/find_batch_size.py": 215,
    "trainer/commands/plan.py": 220,
    "trainer/config.py": 220,
    "trainer/main.py": 240,
    "trainer/metrics/console.py": 250,
    "trainer/metrics/profiler.py": 210,
    "trainer/metrics/recorder.py": 245,
    "trainer/model.py": 225,
    "trainer/process/watchdog_process.py": 220,
    "trainer/validation.py": 250,
}

Graph = dict[str, set[str]]


@cache
def tree(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def named(path: Path) -> Iterator[str]:
    """Yield the full names that a file imports, wherever in it: at its top or in a function."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported(path: Path) -> set[str]:
    """Return the top-level packages that a file imports."""
    return {name.split(".")[0] for name in named(path)}


def name_of(path: Path) -> str:
    """Return a path from the repository on."""
    return path.relative_to(REPOSITORY).as_posix()


def found(name: str) -> Path | None:
    """Return the file of ours in which a full name is, if it is in one."""
    within, _, _ = name.rpartition(".")
    for module in (name, within):  # a module, or what is in one
        path = REPOSITORY / module.replace(".", "/")
        for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
            if file in FILES:
                return file
    return None


def imports_of_files() -> Graph:
    """Return each file, and those of ours that it imports."""
    graph: Graph = {}
    for path in FILES:
        others = {name_of(other) for name in named(path) if (other := found(name))}
        graph[name_of(path)] = others - {name_of(path)}
    return graph


def imports_of_folders(files: Graph) -> Graph:
    """Return each folder, and those that its files import.

    A file beside a package's folders, such as trainer/step.py, counts as a folder of its own.
    """
    graph: Graph = {}
    for file, others in files.items():
        graph.setdefault(room_of(file), set()).update(
            {room_of(other) for other in others} - {room_of(file)}
        )
    return graph


def room_of(file: str) -> str:
    """Return the folder of a file, or the file where it lies in no folder of its package."""
    folder = Path(file).parent
    return str(folder) if len(folder.parts) > 1 else file


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield all functions of a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function has."""
    return (node.end_lineno or 0) - node.lineno + 1


def test_imports_point_left() -> None:
    for path in FILES:
        room = LAYERS.index(path.relative_to(REPOSITORY).parts[0])
        assert not imported(path) & set(LAYERS[room + 1 :]), path


def test_data_knows_nothing_of_processes_and_models() -> None:
    for path in FILES:
        if path.relative_to(REPOSITORY).parts[0] == "data":
            assert not imported(path) & {"accelerate", "transformers"}, path


def test_no_two_files_import_each_other_by_any_way_round() -> None:
    graph = imports_of_files()
    assert "data/utterance.py" in set().union(*graph.values())  # else nothing was found at all
    TopologicalSorter(graph).prepare()  # CycleError names the files


def test_no_two_folders_import_each_other_by_any_way_round() -> None:
    TopologicalSorter(imports_of_folders(imports_of_files())).prepare()


def test_a_cycle_of_folders_would_be_found() -> None:
    graph = {"data/a/x.py": {"data/b/y.py", "data/z.py"}, "data/b/w.py": {"data/a/v.py"}}
    expected = {"data/a": {"data/b", "data/z.py"}, "data/b": {"data/a"}}
    assert imports_of_folders(graph) == expected


def test_no_file_beside_main_is_named_like_a_module_of_others() -> None:
    taken = set(sys.stdlib_module_names) | NEIGHBOURS | set(LAYERS)
    beside_main = {path.stem for path in (REPOSITORY / "trainer").glob("*.py")}
    assert not (beside_main - {"__init__", "__main__"}) & taken


def test_the_loop_fits_on_a_screen() -> None:
    for path in FILES:
        for node in functions(path):
            if node.name in LIMITS:
                assert lines(node) <= LIMITS[node.name], f"{path}: {node.name}"


def test_functions_are_short_and_take_few_parameters() -> None:
    for path in FILES:
        for node in functions(path):
            name = f"{name_of(path)}: {node.name}"
            assert lines(node) <= LONG_FUNCTIONS.get(name, FUNCTION_LINES), name
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert len([each for each in given if each.arg not in ("self", "cls")]) <= PARAMETERS


def test_files_are_short() -> None:
    sizes = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    over = {name: size for name, size in sizes.items() if size > LONG_FILES.get(name, FILE_LINES)}
    assert over == {}


def test_a_folder_holds_few_files() -> None:
    for folder in {path.parent for path in FILES}:
        name = name_of(folder)
        count = len(list(folder.glob("*.py")))
        assert count <= FOLDER_FILES, name
