"""A folder that was split into parts is restored exactly, or not at all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PARTS = Path(__file__).parent / "benchmark" / "parts.py"


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the program."""
    command = [sys.executable, str(PARTS), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of some files: one of several parts, an empty one, one in a folder."""
    made = tmp_path / "model"
    (made / "more").mkdir(parents=True)
    (made / "model.safetensors").write_bytes(bytes(range(256)) * 10_000)
    (made / "more" / "empty.txt").write_bytes(b"")
    (made / "more" / "config.json").write_text("{}")
    return made


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("megabytes", [0.3, 1, 2.56, 2.560002, 24])
def test_what_was_split_comes_back(folder: Path, tmp_path: Path, megabytes: float) -> None:
    parts, back = tmp_path / "parts", tmp_path / "back"
    done = call("split", folder, f"--out={parts}", f"--megabytes={megabytes}")
    assert done.returncode == 0, done.stderr
    sizes = [path.stat().st_size for path in parts.glob("part-*")]
    assert max(sizes) <= megabytes * 1e6
    assert sum(sizes) == 2_560_002
    assert len(sizes) == -(-2_560_002 // int(megabytes * 1e6))
    done = call("join", parts, f"--out={back}")
    assert done.returncode == 0, done.stderr
    assert contents(back) == contents(folder)


def test_a_missing_or_damaged_part_is_named_and_nothing_is_written(
    folder: Path, tmp_path: Path
) -> None:
    parts, back = tmp_path / "parts", tmp_path / "back"
    call("split", folder, f"--out={parts}", "--megabytes=1")
    second = parts / "part-0001"
    second.write_bytes(b"x" + second.read_bytes()[1:])
    done = call("join", parts, f"--out={back}")
    assert done.returncode == 2
    assert "part-0001: is damaged" in done.stderr
    second.unlink()
    done = call("join", parts, f"--out={back}")
    assert done.returncode == 2
    assert "part-0001: is missing" in done.stderr
    assert not back.exists()


def test_parts_cannot_write_outside_of_the_folder(folder: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    call("split", folder, f"--out={parts}")
    manifest = json.loads((parts / "parts.json").read_text())
    manifest["files"][0]["name"] = "../outside"
    (parts / "parts.json").write_text(json.dumps(manifest))
    done = call("join", parts, f"--out={tmp_path / 'back'}")
    assert done.returncode == 2
    assert "would be written outside" in done.stderr
    assert not (tmp_path / "outside").exists()


def test_files_that_are_not_what_was_split_are_refused(folder: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    call("split", folder, f"--out={parts}")
    manifest = json.loads((parts / "parts.json").read_text())
    manifest["files"][0]["sha256"] = "0"
    (parts / "parts.json").write_text(json.dumps(manifest))
    done = call("join", parts, f"--out={tmp_path / 'back'}")
    assert done.returncode == 2
    assert "is not what was split" in done.stderr


def test_a_mistake_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    for arguments, message in (
        (("split", tmp_path / "none", f"--out={parts}"), "holds no files"),
        (("split", folder, f"--out={folder}"), "exists already"),
        (("split", folder, f"--out={parts}", "--megabytes=0"), "must be greater than 0"),
        (("join", folder, f"--out={parts}"), "no such file; give the folder"),
    ):
        done = call(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
