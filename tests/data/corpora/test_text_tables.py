"""Lists and texts of corpora; tables are tested with their readers."""

from pathlib import Path

import pytest

from data.corpora.find_files import peek, peek_folders, subfolders, walk
from data.corpora.text_tables import decoded, read_lines, read_pairs
from data.errors import InputError
from tests.layouts import write


def test_lines_have_their_numbers_and_blank_ones_are_none(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes("\ufeffone\r\n \r\ntwo \u2028 still two\n\nth\0ree".encode())
    assert list(read_lines(path)) == [(1, "one"), (3, "two \u2028 still two"), (5, "th\ufffdree")]


def test_the_first_encoding_that_fits_is_taken() -> None:
    both = ("utf-8", "cp949")
    assert decoded("네".encode(), both) == decoded("네".encode("cp949"), both) == "네"
    assert decoded("네".encode("utf-16")) == "네"
    assert decoded(b"\xff\xff", both) is None
    assert decoded("네".encode("utf-16")[:-1]) is None


def test_a_key_without_a_value_has_an_empty_one(tmp_path: Path) -> None:
    assert read_pairs(write(tmp_path / "text", "a  one  two", "b")) == {"a": "one  two", "b": ""}


def test_a_link_round_in_a_circle_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "train").mkdir()
    assert (subfolders(tmp_path), peek_folders(tmp_path)) == (["train"], [tmp_path / "train"])


def test_no_folder_holds_nothing_and_one_that_cannot_be_read_raises_an_input_error(
    tmp_path: Path,
) -> None:
    assert (peek(tmp_path / "no"), subfolders(tmp_path / "no")) == ([], [])
    with pytest.raises(InputError, match="no: cannot be read: No such file or directory"):
        list(walk(tmp_path / "no"))
