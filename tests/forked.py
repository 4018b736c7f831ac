"""Programs in processes of their own, forked from one that has imported everything.

A start from nothing takes four seconds of imports. Tests of such a start (of the launchers, of the
wheel, of one command each) pay for them; the others need not.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
Sabotage = Callable[[], None]  # breaks something in a process before its program begins

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.parent_death", "tests.preload"])
STARTED: list[Any] = []  # processes


@dataclass(frozen=True, kw_only=True)
class Program:
    """The module that a process runs, and its environment."""

    work: Callable[[], object]
    arguments: tuple[str, ...] = ("",)  # sys.argv
    out: Path  # standard output
    err: Path  # standard error; it may be the same file
    cwd: Path = REPOSITORY
    environment: Mapping[str, str] = field(default_factory=dict)  # what it has besides ours
    sabotage: Sabotage | None = None


def start(program: Program) -> Any:
    """Start a program, and return its process, which the test that started it does not outlive."""
    process = FORKS.Process(target=_become, args=(program,))
    process.start()
    STARTED.append(process)
    return process


def train() -> None:
    """Be `python trainer/main.py`."""
    from matplotlib.figure import Figure

    from trainer.main import main
    from trainer.metrics import flops
    from trainer.report import plots

    # both take a tenth of a second or more; test_launch and the tests of these modules do them
    plots._draw = lambda *_: Figure(figsize=(0.1, 0.1))
    flops._measure_peak = lambda _: 1e11
    main()


def run_module(
    module: str, *arguments: object, cwd: Path = REPOSITORY, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENTS` to its end, or kill it after ten minutes.

    Args:
        module: a module, a package with a `__main__`, or the path of a program.
        arguments: its arguments.
        cwd: its working directory.
        environment: what its environment has besides this process's.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = start(
            Program(
                work=partial(_run_as_main, module),
                arguments=(module, *map(str, arguments)),
                out=out,
                err=err,
                cwd=cwd,
                environment={"OMP_NUM_THREADS": "1", **environment},
            )
        )
        process.join(600)
        if process.exitcode is None:
            process.kill()
            process.join()
        outputs = [path.read_text(encoding="utf-8") for path in (out, err)]
    return subprocess.CompletedProcess([module, *map(str, arguments)], process.exitcode, *outputs)


def _run_as_main(module: str) -> None:
    if module.endswith(".py"):
        runpy.run_path(module, run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def _become(program: Program) -> None:
    """Be a program, in a process that has imported everything."""
    import torch

    from tests.parent_death import die_with_parent

    die_with_parent()
    for number, path in ((1, program.out), (2, program.err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(program.cwd)
    os.environ.update(program.environment)
    torch.set_num_threads(int(program.environment.get("OMP_NUM_THREADS", 1)))
    sys.argv = list(program.arguments)
    if program.sabotage is not None:
        program.sabotage()
    program.work()
