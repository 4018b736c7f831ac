"""Small files are written completely or not at all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.atomic_files import (
    append_jsonl,
    read_jsonl,
    truncate_jsonl,
    write_json,
    write_jsonl,
    write_text,
)


def test_a_file_is_written_with_its_folders_and_nothing_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "中文\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "中文\n".encode()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "old.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "x" * 100_000 + "\ud800")  # fails after a part was written
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_rename_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_text(tmp_path / "folder", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_rows_that_fail_halfway_write_nothing(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {"a": 1}
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_jsonl(tmp_path / "rows.jsonl", rows())
    assert list(tmp_path.iterdir()) == []


def test_json_lines_come_back_as_they_were(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "零一\n二", "seconds": 1.25}, {}, {"end": None}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    append_jsonl(tmp_path / "rows.jsonl", rows[:1])
    append_jsonl(tmp_path / "rows.jsonl", [])
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == [*rows, rows[0]]
    assert "零一" in (tmp_path / "rows.jsonl").read_text(encoding="utf-8")  # a person can read it


def test_json_is_indented_and_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"text": "中"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "text": "中"\n}\n'


@pytest.mark.parametrize("torn", ["", '{"n": 9, "te', "\0" * 50])
@pytest.mark.parametrize("rows", [0, 1, 2, 9])
def test_what_stays_of_a_cut_file_are_the_rows_before(tmp_path: Path, rows: int, torn: str) -> None:
    path = tmp_path / "rows.jsonl"
    # rows of all lengths, of which two share a number
    held = [{"n": n // 2, "text": "零" * (n * 37 % 11)} for n in range(rows)]
    for cut in range(-1, 6):
        write_jsonl(path, held)
        with path.open("a") as file:
            file.write(torn)
        truncate_jsonl(path, lambda row, cut=cut: row["n"] > cut)  # type: ignore[misc]
        assert list(read_jsonl(path)) == [row for row in held if row["n"] <= cut]
        assert path.read_bytes()[-1:] in (b"", b"\n")  # the next row begins a line


def test_a_file_that_is_absent_is_made_by_a_cut(tmp_path: Path) -> None:
    truncate_jsonl(tmp_path / "rows.jsonl", lambda _: True)
    assert (tmp_path / "rows.jsonl").read_bytes() == b""
