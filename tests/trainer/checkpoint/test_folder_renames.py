"""Some mounts (gcsfuse, overlays) rename files, but no folders: a run goes on there all the same.

A real one needs FUSE, which a test cannot ask for: os.rename refuses folders here, in real runs.
"""

import errno
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import WhisperForConditionalGeneration

from data.errors import InputError
from trainer.checkpoint.atomic_folder import (
    MANIFEST,
    PENDING,
    delete_leftovers,
    discard,
    move,
    verify,
    write_manifest,
)
from trainer.checkpoint.rotation import CheckpointConfig, CheckpointRotation, verified
from trainer.commands.publish import export_run

RENAME = os.rename


def refuse_folders(code: int = errno.EMFILE, dies_at: str = "") -> None:
    """Have os.rename refuse folders, in this process; die where a file of a name is moved."""

    def rename(source: Any, target: Any) -> None:
        if Path(source).is_dir():
            raise OSError(code, os.strerror(code), str(source), None, str(target))
        if dies_at and Path(source).name == dies_at:
            raise KeyboardInterrupt
        RENAME(source, target)

    os.rename = rename  # type: ignore[assignment]


@pytest.fixture
def no_renames(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes folders' renames fail, until the test's end."""
    monkeypatch.setattr(os, "rename", RENAME)  # put back at the end
    return refuse_folders


def write(folder: Path, text: str = "1") -> Path:
    """Write a folder with a file, and one in a folder of its own."""
    (folder / "deep").mkdir(parents=True)
    (folder / "weights").write_text(text)
    (folder / "deep" / "state").write_text(text)
    return folder


def complete(folder: Path) -> Path:
    """Write a folder with its manifest."""
    write_manifest(write(folder))
    return folder


@pytest.mark.parametrize(
    "code", [errno.EMFILE, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EIO, errno.EPERM]
)
def test_a_folder_that_cannot_be_renamed_is_moved_file_by_file(
    tmp_path: Path, no_renames: Callable[..., None], code: int
) -> None:
    no_renames(code)
    move(complete(tmp_path / f"{PENDING}step"), tmp_path / "step")
    verify(tmp_path / "step")
    assert [path.name for path in tmp_path.iterdir()] == ["step"]
    discard(tmp_path / "step")
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_not_hidden(tmp_path: Path, no_renames: Callable[..., None]) -> None:
    no_renames(errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        move(complete(tmp_path / f"{PENDING}step"), tmp_path / "step")
    assert not (tmp_path / "step").exists()


@pytest.mark.parametrize("name", ["weights", "state", MANIFEST])
def test_a_folder_moved_in_part_is_absent_and_swept_away(
    tmp_path: Path, no_renames: Callable[..., None], name: str
) -> None:
    pending = complete(tmp_path / f"{PENDING}step")
    no_renames(dies_at=name)
    with pytest.raises(KeyboardInterrupt):
        move(pending, tmp_path / "step")
    with pytest.raises(InputError, match=MANIFEST):
        verify(tmp_path / "step")
    delete_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_deleted_in_part_is_absent(
    tmp_path: Path, no_renames: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    move(complete(tmp_path / f"{PENDING}step"), tmp_path / "step")
    no_renames()
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # killed before a file has gone
    discard(tmp_path / "step")
    with pytest.raises(InputError, match=MANIFEST):
        verify(tmp_path / "step")


def test_another_checkpoint_of_one_update_leaves_a_whole_one_at_every_moment(
    tmp_path: Path, no_renames: Callable[..., None]
) -> None:
    rotation = CheckpointRotation(tmp_path, CheckpointConfig(keep=1))
    progress = {"state": {"step": 1, "best_step": 0}, "shape": {}}
    for name in ("", "weights", "state", MANIFEST):
        no_renames(dies_at=name)
        write(rotation.pending_path(1), text=name)
        try:
            rotation.commit(rotation.pending_path(1), progress)
        except KeyboardInterrupt:
            assert name
        found = rotation.newest(lambda _: None)
        rotation.clean_up(found)
        assert found is not None
        assert (found / "weights").read_text() == ""
    no_renames()
    write(rotation.pending_path(1), text="last")
    rotation.commit(rotation.pending_path(1), progress)
    rotation.prune()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert (verified(rotation.at(1)) / "weights").read_text() == "last"


def test_a_run_without_renames_of_folders_saves_chooses_resumes_and_exports(
    trainer: Any, tmp_path: Path, no_renames: Callable[..., None]
) -> None:
    run = tmp_path / "run"
    knobs = ("--data.dev_split=dev", "--eval.max_length=4", "--loop.eval_every=2")
    knobs += ("--checkpoint.save_every=1", "--checkpoint.keep=9")
    refused = partial(refuse_folders, errno.EMFILE)
    done = trainer(run, *knobs, "--loop.max_steps=4", sabotage=refused)
    assert "WARNING" not in done.output
    first = run / "checkpoints" / "step-00000003"
    again = (f"--resume={first}", "--loop.max_steps=5")
    trainer(run, *knobs, *again, sabotage=refused)
    found = sorted(path.name for path in (run / "checkpoints").iterdir())
    whole = [name for name in found if name.startswith("step-")]
    assert whole[-2:] == ["step-00000004", "step-00000005"]
    assert [name for name in found if not name.startswith(("step-", "replaced-"))] == []
    for name in whole:
        verified(run / "checkpoints" / name)
    no_renames()
    export_run([str(run), f"--out={tmp_path / 'out'}"])
    for folder in (run / "model", tmp_path / "out"):
        step = json.loads((folder / "whisper_loop.json").read_text())["step"]
        assert (run / "checkpoints" / f"step-{step:08d}").is_dir()
        WhisperForConditionalGeneration.from_pretrained(folder)


def test_a_folder_keeps_its_files_where_it_is_moved(
    tmp_path: Path, no_renames: Callable[..., None]
) -> None:
    no_renames()
    move(write(tmp_path / "a"), tmp_path / "b", last="weights")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b" / "deep" / "state").read_text() == "1"
