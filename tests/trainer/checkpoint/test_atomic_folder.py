"""A sealed folder is complete or absent, and any damage to it is found."""

import json
import os
from pathlib import Path

import pytest

from data.errors import InputError
from trainer.checkpoint.atomic_folder import (
    MANIFEST,
    PENDING,
    TRASH,
    delete_leftovers,
    discard,
    move,
    verify,
    write_manifest,
)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """Return a sealed folder with two files, one in a folder of its own."""
    pending = tmp_path / f"{PENDING}step"
    (pending / "deep").mkdir(parents=True)
    (pending / "weights").write_bytes(bytes(range(256)) * 40)
    (pending / "deep" / "state").write_text("{}")
    target = tmp_path / "step"
    write_manifest(pending)
    move(pending, target)
    return target


def test_what_was_sealed_verifies_and_has_its_name(sealed: Path) -> None:
    verify(sealed)
    assert [path.name for path in sealed.parent.iterdir()] == ["step"]


def test_all_files_are_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def record_fsync(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def record_rename(source: Path, target: Path) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    pending = tmp_path / f"{PENDING}step"
    pending.mkdir()
    (pending / "weights").write_bytes(b"1")
    write_manifest(pending)
    move(pending, tmp_path / "step")
    named = done.index("rename")
    assert "weights" in done[:named]
    assert any(MANIFEST in name for name in done[:named])
    assert pending.name in done[:named]
    assert done[named + 1 :] == [tmp_path.name]


@pytest.mark.parametrize("name", ["weights", "deep/state", MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove", "link"])
def test_any_damage_is_found_and_named(sealed: Path, name: str, damage: str) -> None:
    file = sealed / name
    content = bytearray(file.read_bytes())
    file.unlink()
    if damage == "link":
        (sealed.parent / "elsewhere").write_bytes(content if name != MANIFEST else b"{}")
        file.symlink_to(sealed.parent / "elsewhere")
    elif damage != "remove":
        content[len(content) // 2] ^= 1
        file.write_bytes({"flip": content, "cut": content[:-2], "empty": b""}[damage])
    with pytest.raises(InputError, match=name):
        verify(sealed)


def test_a_file_that_the_manifest_does_not_name_is_refused(sealed: Path) -> None:
    (sealed / "pytorch_model.bin").write_bytes(b"load_state would read it")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: not in manifest"):
        verify(sealed)


def test_a_manifest_cannot_name_a_file_outside(sealed: Path) -> None:
    (sealed.parent / "outside").write_bytes(b"1")
    manifest = json.loads((sealed / MANIFEST).read_text())
    manifest["../outside"] = {"bytes": 1, "sha256": "0"}
    (sealed / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="outside: missing"):
        verify(sealed)


def test_nothing_is_found_half_deleted(sealed: Path) -> None:
    discard(sealed)
    discard(sealed)  # what is gone is gone
    assert list(sealed.parent.iterdir()) == []


def test_what_a_crash_left_is_swept_away(sealed: Path) -> None:
    for name in (f"{PENDING}step-2", f"{TRASH}step-1"):
        (sealed.parent / name).mkdir()
        (sealed.parent / name / "half").write_bytes(b"1")
    delete_leftovers(sealed.parent)
    assert list(sealed.parent.iterdir()) == [sealed]
