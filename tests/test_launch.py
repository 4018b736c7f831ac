"""All ways to launch training in the README work, in real processes."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from select import select
from typing import Any

import pytest

from tests import forked
from tests.forked import run_module

REPOSITORY = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
MAIN = str(REPOSITORY / "trainer" / "main.py")


def call(command: list[str], cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command from a folder that is not the repository."""
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | more
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def test_accelerate_launch_trains_from_any_folder_and_leaves_what_the_design_says(
    trainer: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = trainer.arguments(
        run,
        "--loop.max_steps=1",
        "--data.dev_split=dev",
        "--data.test_split=test",
        "--eval.max_length=6",
    )
    done = call([str(BIN / "accelerate"), "launch", "--quiet", "--cpu", MAIN, *arguments], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in run.iterdir()} == {
        ".lock",
        "config.yaml",
        "environment.json",
        "manifest.jsonl",
        "manifest.index.safetensors",
        "drops.jsonl",
        "status.json",
        "metrics.jsonl",
        "losses.jsonl",
        "checkpoints",
        "model",
        "eval",
        "report.html",
        "plots",
        "tensorboard",
    }
    assert json.loads((run / "status.json").read_text(encoding="utf-8"))["status"] == "finished"
    facts = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    assert facts["packages"]["torch"]
    assert len(facts["data"]) == 16
    evaluations = sorted((run / "eval").glob("step-*/*"))
    assert {"dev", "test"} == {path.name for path in evaluations}
    page = (run / "report.html").read_text(encoding="utf-8")
    for evaluation in evaluations:
        assert f'href="{evaluation.relative_to(run)}/report.html"' in page
        shown = (evaluation / "report.html").read_text(encoding="utf-8")
        assert ("before: " in shown) == (evaluation.parent.name != "step-00000000")
    assert "before" in done.stdout
    assert str(run / "report.html") in done.stdout


def test_torchrun_trains_on_two_processes(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = trainer.arguments(run, "--loop.max_steps=1", "--data.workers=1")
    done = call([sys.executable, *launcher, MAIN, *arguments], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    assert facts["processes"] == 2
    assert done.stdout.count("in all; dev") == 1  # only one of them speaks


def test_print_config_prints_a_recipe_and_touches_nothing(tmp_path: Path) -> None:
    done = run_module("trainer", "demo.yaml", "--print_config")
    assert done.returncode == 0, done.stderr
    assert "update_seconds" in done.stdout
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(done.stdout, encoding="utf-8")
    again = run_module(MAIN, recipe, "--print_config", cwd=tmp_path)
    assert again.stdout == done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_the_profile_says_where_an_update_spends_its_time(
    trainer: Any, blank_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = trainer(run, "--profile", "--loop.max_steps=12", f"--model.name={blank_model}")
    for phase in ("data wait", "forward", "backward", "optimizer", "4 updates by length"):
        assert phase in done.output
    trace = json.loads((run / "profile" / "trace.json").read_text(encoding="utf-8"))
    assert any(event.get("name") == "backward" for event in trace["traceEvents"])


def test_the_display_draws_on_a_terminal(trainer: Any, tmp_path: Path) -> None:
    reader, writer = pty.openpty()
    terminal = Path(os.ttyname(writer))
    process = forked.start(
        forked.Program(
            work=forked.train,
            arguments=(MAIN, *trainer.arguments(tmp_path / "run", "--loop.max_steps=2")),
            out=terminal,
            err=terminal,
            environment={"ACCELERATE_USE_CPU": "true", "TERM": "xterm", "COLUMNS": "100"},
        )
    )
    screen = b""
    while select([reader], [], [], 0.1)[0] or process.is_alive():
        if select([reader], [], [], 0)[0]:
            screen += os.read(reader, 4096)
    for descriptor in (reader, writer):
        os.close(descriptor)
    assert process.exitcode == 0, screen
    assert b"training, updates" in screen
    assert b"2/2" in screen
    assert b"loss" in screen


def script(path: Path, text: str) -> None:
    """Write a program of a few lines for a shell."""
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("visible", "processes"),
    [
        (None, 3),
        ("0,2", 2),
        ("1, 2", 2),
        ("1", 1),
        ("GPU-8932f937-d72c,GPU-5b1ad2f4-1c3e", 2),
        ("", 1),
        ("-1", 1),
        ("0,1,-1,2", 2),
        ("NoDevFiles", 1),
    ],
)
def test_launch_sh_starts_a_process_for_each_gpu_that_is_visible(
    tmp_path: Path, visible: str | None, processes: int
) -> None:
    script(tmp_path / "python", f"echo {tmp_path}")  # asked for its folder, where all is installed
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path / ".whisper-loop-installed")
    script(tmp_path / "nvidia-smi", 'for n in 0 1 2; do echo "GPU $n: NVIDIA H100"; done')
    script(tmp_path / "accelerate", 'echo "$@"')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VIRTUAL_ENV": str(tmp_path)}
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    done = subprocess.run(
        [str(REPOSITORY / "launch.sh"), "recipe.yaml"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert f"--num_processes {processes} " in done.stdout
    assert ("--multi_gpu" in done.stdout) == (processes > 1)


@pytest.mark.slow
def test_launch_sh_runs_the_demo_to_its_end(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = call([str(REPOSITORY / "launch.sh"), "demo", f"--run_dir={run}"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in (run / "eval").glob("step-*/test/scores.json"):
        scores = json.loads(path.read_text(encoding="utf-8"))
        if scores["step"]:
            assert scores["error"] <= 0.08
