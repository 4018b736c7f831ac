"""What a run announces at its end is there."""

from pathlib import Path
from typing import Any

import pytest

BOTH = ("--data.dev_split=dev", "--data.test_split=test", "--eval.max_length=4")


@pytest.mark.parametrize(
    ("knobs", "lines"),
    [
        (("--log.trackers",), ["model", "report"]),
        ((), ["model", "report", "curves"]),
        (BOTH, ["model", "report", "scores", "curves"]),
    ],
    ids=["no split, no tracker", "no split", "all"],
)
def test_a_run_announces_what_exists(
    trainer: Any, tmp_path: Path, knobs: tuple[str, ...], lines: list[str]
) -> None:
    run = tmp_path / "run"
    told = trainer(run, "--loop.max_steps=2", *knobs).output.splitlines()
    end = told[next(i for i, line in enumerate(told) if line.startswith("  model ")) :]
    found = {line.split()[0]: Path(line.split()[-1]) for line in end if line.startswith("  ")}
    assert list(found) == lines
    assert all(path.exists() for path in found.values())
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "2: training loss" in page
    assert ("<h2>Evaluations" in page) == ("scores" in lines)
    assert end[-1].startswith("next: ")
