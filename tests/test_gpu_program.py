"""The programs for a GPU work on a CPU, and a step is ended at its time limit."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.forked import run_module

PROGRAM = "tests/benchmark/gpu/run.py"
# one step of each program: those of other sizes are the same command here
TRIED = {
    "training": ("device", "training", "real"),
    "resume": ("resume",),
    "fit": ("fit",),
    "memory": ("memory", "sync", "fp16", "features"),
    "numbers": ("attention", "gradient", "scoring", "others"),
    "evaluation": ("evaluation",),
    "speed": ("speed-small", "allocator-fixed"),
    "comparison": ("compare-small-8",),
}
USUAL = "evaluation"  # each step is a start from nothing: the others are slow
NAMES = [
    pytest.param(names, id=name, marks=() if name == USUAL else pytest.mark.slow)
    for name, names in TRIED.items()
]
SKIPPED = ("real", "others")  # without real weights; and all files of tests/gpu are named


def run(out: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program."""
    environment |= {"CUDA_VISIBLE_DEVICES": ""}
    return run_module(PROGRAM, f"--out={out}", *arguments, **environment)


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Return what was written down."""
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("names", NAMES)
def test_every_step_leaves_a_line_that_says_ok(names: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    done = run(out, "--smoke", "--jobs=1", "--rows", *names)
    ends = {row["step"]: row["status"] for row in rows_of(out) if "status" in row}
    output = done.stdout + done.stderr + out.read_text(encoding="utf-8")
    assert set(ends) == set(names), output
    for name, status in ends.items():
        assert status == "ok" or (status == "skipped" and name in SKIPPED), output
    assert done.returncode == 0, output
    assert all(name in done.stdout for name in names)  # in the table


@pytest.mark.slow
def test_real_weights_learn_where_they_are_given(
    blank_model: Path, tone_corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "gpu.jsonl"
    given = (f"--model={blank_model}", f"--corpus={tone_corpus}", "--error=0.31")
    done = run(out, "--smoke", *given, "--rows", "real")
    assert done.returncode == 0, done.stdout
    cpu, found, end = rows_of(out)
    assert cpu["error_after"] == 0.31
    assert found["row"] == "fp32"
    assert {"error_before", "error_after", "first_loss", "last_loss"} <= found.keys()
    assert end["status"] == "ok"


def test_a_step_is_ended_at_its_limit_and_what_comes_later_is_skipped(tmp_path: Path) -> None:
    # Python imports this before anything else: the step hangs
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(600)\n")
    out = tmp_path / "gpu.jsonl"
    arguments = ("--smoke", "--seconds=7", "--rows", "compare-small-8", "evaluation")
    done = run(out, *arguments, PYTHONPATH=str(tmp_path))
    ends = {row["step"]: row["status"] for row in rows_of(out) if "status" in row}
    assert ends == {"compare-small-8": "timeout", "evaluation": "skipped"}
    assert done.returncode == 1


def test_rows_of_an_earlier_start_stay_in_the_file(tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    for _ in range(2):
        assert run(out, "--smoke", "--rows", "real").returncode == 0
    assert [row["step"] for row in rows_of(out)] == ["real", "real"]


def test_all_steps_together_take_nine_minutes_at_most(tmp_path: Path) -> None:
    done = run(tmp_path / "gpu.jsonl", "--plan")
    assert done.returncode == 0, done.stderr
    (total,) = (line for line in done.stdout.splitlines() if line.startswith("in all"))
    assert int(total.split()[2]) <= 540
    assert not (tmp_path / "gpu.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is no GPU here: --smoke tries the program on a CPU"),
        (("--smoke", "--rows", "tets"), "there is no step 'tets'; known: device, "),
        (("--smoke", "--jobs=0"), "jobs must be at least 1, got 0"),
        (("--smoke", "--seconds=0"), "seconds must be greater than 0, got 0.0"),
        (("--smoke", "--model=folder"), "give both or neither"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = run(tmp_path / "gpu.jsonl", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
