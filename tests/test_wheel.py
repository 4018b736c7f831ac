"""The built wheel contains everything that a run needs, without the repository."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def call(arguments: list[str], cwd: Path, **more: str) -> str:
    """Run Python; return its output."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | more,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the wheel was installed into, without what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    call(["-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")], REPOSITORY)
    (wheel,) = (folder / "dist").glob("whisper_loop-*.whl")
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    call([*pip, "--target", str(folder / "site"), str(wheel)], folder)
    return folder / "site"


def test_every_file_of_the_packages_is_in_the_wheel(installed: Path) -> None:
    for package in ("data", "eval", "trainer"):
        listed = ["git", "ls-files", package]
        tracked = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True)
        files = tracked.stdout.split() or [
            str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / package).rglob("*.py")
        ]
        assert len(files) > 10
        assert [name for name in files if not (installed / name).is_file()] == []


def test_an_installed_package_trains_scores_and_reports_from_any_folder(
    installed: Path, trainer: Any, tmp_path: Path
) -> None:
    where = "import importlib.util as u; print(u.find_spec('trainer').origin)"
    found = call(["-c", where], tmp_path, PYTHONPATH=f"{installed}")
    assert found.startswith(str(installed))
    arguments = trainer.arguments(
        tmp_path / "run", "--loop.max_steps=1", "--data.test_split=test", "--eval.max_length=4"
    )
    # the recipe is one of the wheel's; the arguments replace what costs time
    call(["-m", "trainer", "demo.yaml", *arguments], tmp_path, PYTHONPATH=f"{installed}")
    assert "max_padding: 0.3" in (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    for name in ("model/model.safetensors", "report.html", "eval/step-00000001/test/report.html"):
        assert (tmp_path / "run" / name).stat().st_size > 1000
