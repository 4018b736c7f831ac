"""Members of tar archives: indexed once, read in any order, and never confused."""

import gzip
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from data.audio import tar as archive
from data.audio.decode import AudioError, decode
from data.audio.open_audio import containing_file
from data.audio.tar import Member, contents, fetch, locator, members
from data.config import DataConfig
from data.errors import InputError
from data.screening.durations import scan
from data.utterance import Utterance

WriteClip = Callable[..., Path]
MODES = {"plain.tar": "w", "packed.tar.gz": "w:gz", "packed.tgz": "w:gz"}
pytestmark = pytest.mark.usefixtures("cache_home")


def pack(path: Path, files: dict[str, bytes], mode: str = "w", **options: Any) -> Path:
    """Write a tar of some files."""
    with tarfile.open(path, mode, **options) as tar:  # type: ignore[call-overload]  # any mode
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def noise(number: int, size: int = 300_000) -> bytes:
    """Return incompressible bytes, so that a gzip of a few has saved states between them."""
    return (
        torch.randint(256, (size,), generator=torch.Generator().manual_seed(number))
        .to(torch.uint8)
        .numpy()
        .tobytes()
    )


FILES = {f"train/{number}.bin": noise(number) for number in range(8)}


@pytest.fixture(params=MODES)
def packed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return an archive of each kind."""
    return pack(tmp_path / request.param, FILES, MODES[request.param])


def test_files_are_read_in_any_order(packed: Path) -> None:
    found = members(packed)
    assert list(found) == list(FILES)
    for name in reversed(FILES):
        assert fetch(str(packed), found[name]) == FILES[name]


def test_several_are_read_in_the_order_in_which_they_lie(packed: Path) -> None:
    wanted = [members(packed)[name] for name in ("train/5.bin", "train/2.bin")]
    read = [(member.name, content) for member, content in contents(packed, wanted)]
    assert read == [(name, FILES[name]) for name in ("train/2.bin", "train/5.bin")]


def test_an_archive_is_walked_once(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = members(packed)
    monkeypatch.setattr(archive, "_walk", lambda _: pytest.fail("walked again"))
    assert members(packed) == first


def test_a_walk_begins_at_the_beginning_whatever_was_read_before(packed: Path) -> None:
    first = members(packed)
    fetch(str(packed), first["train/3.bin"])
    os.utime(packed, ns=(0, 0))  # another archive, as far as the cache knows
    fetch(str(packed), first["train/5.bin"])
    assert members(packed) == first


def test_an_archive_that_changed_is_walked_again(packed: Path) -> None:
    members(packed)
    pack(packed, {"other.bin": b"other"}, MODES[packed.name])
    assert list(members(packed)) == ["other.bin"]


def test_nothing_is_written_beside_the_archive(packed: Path, cache_home: Path) -> None:
    fetch(str(packed), members(packed)["train/3.bin"])
    assert [path.name for path in packed.parent.iterdir() if path != cache_home] == [packed.name]
    assert any(path.is_file() for path in cache_home.rglob("*"))


def test_a_damaged_index_costs_a_walk(packed: Path, cache_home: Path) -> None:
    first = members(packed)
    (index,) = cache_home.rglob("*.jsonl")
    for damage in ("not JSON\n", '{"no": "name"}\n', '{"name": "a", "else": 1}\n'):
        index.write_text(damage)
        assert members(packed) == first


def test_a_cache_that_cannot_be_written_raises_an_input_error(
    packed: Path, cache_home: Path
) -> None:
    cache_home.write_text("a file, where a folder should be")
    with pytest.raises(InputError, match=r"HF_HOME: the index of .* cannot be written there"):
        members(packed)


class _Files(Dataset[bytes]):
    """Reads the files of an archive, in any process."""

    def __init__(self, packed: Path, found: list[Member]) -> None:
        self.packed = str(packed)
        self.found = found

    def __getitem__(self, index: int) -> bytes:
        return fetch(self.packed, self.found[index])

    def __len__(self) -> int:
        return len(self.found)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
def test_processes_that_were_forked_after_it_was_opened_do_not_disturb_each_other(
    packed: Path,
) -> None:
    files = _Files(packed, list(members(packed).values()))
    assert files[3] == FILES["train/3.bin"]  # it is open here, in the middle
    order = [n for _ in range(10) for n in (7, 0, 5, 2, 6, 1, 4, 3)]
    loader = DataLoader(
        files,
        sampler=order,
        batch_size=None,
        num_workers=4,
        multiprocessing_context="fork",
    )
    assert list(loader) == [FILES[f"train/{n}.bin"] for n in order]
    assert files[3] == FILES["train/3.bin"]


def test_links_devices_and_names_that_climb_out_are_no_files(tmp_path: Path) -> None:
    path = pack(tmp_path / "odd.tar", {"../up.wav": b"x", "/root.wav": b"x", "a/../../b": b"x"})
    with tarfile.open(path, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo(f"{kind!r}.wav")
            entry.type, entry.linkname = kind, "/etc/passwd"
            tar.addfile(entry)
        tar.add(tmp_path, "folder", recursive=False)
        sound = tarfile.TarInfo("sound.wav")
        tar.addfile(sound)
    assert list(members(path)) == ["sound.wav"]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a.wav", "深/度.wav", f"{'deep/' * 25}a.wav"])
def test_names_of_any_length_and_script_are_read(name: str, kind: int, tmp_path: Path) -> None:
    path = pack(tmp_path / "names.tar", {name: b"content", "b": b"other"}, format=kind)
    assert fetch(str(path), members(path)[name]) == b"content"


def test_names_that_are_not_utf8_stay_apart(tmp_path: Path) -> None:
    names = ["가.wav", "나.wav"]
    path = pack(
        tmp_path / "names.tar",
        {name: name.encode() for name in names},
        format=tarfile.GNU_FORMAT,
        encoding="cp949",
    )
    found = members(path)
    assert [fetch(str(path), member) for member in found.values()] == [n.encode() for n in names]
    assert all(member.name.isascii() for member in found.values())


def test_the_last_file_of_a_name_counts(tmp_path: Path) -> None:
    path = pack(tmp_path / "twice.tar", {"a": b"old"})
    pack(path, {"a": b"new"}, "a")
    assert fetch(str(path), members(path)["a"]) == b"new"


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_an_archive_that_was_cut_raises_an_input_error(packed: Path, kept: float) -> None:
    os.truncate(packed, int(packed.stat().st_size * kept))
    with pytest.raises(InputError, match=r"packed|plain.*cannot be read to its end"):
        members(packed)


def test_an_archive_that_was_cut_between_two_files_raises_an_input_error(tmp_path: Path) -> None:
    path = pack(tmp_path / "cut.tar", FILES)
    third = members(path)["train/3.bin"]
    os.truncate(path, third.offset - tarfile.BLOCKSIZE)  # where tarfile would see nothing amiss
    with pytest.raises(
        InputError, match=r"cut\.tar: cannot be read to its end \(no end-of-archive marker"
    ):
        members(path)


@pytest.mark.parametrize("name", ["no.tar", "no.tar.gz"])
def test_files_that_are_not_archives_raises_an_input_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(noise(0, 5_000))
    with pytest.raises(InputError, match=r"cannot be read to its end .*: copy it again"):
        members(tmp_path / name)
    with pytest.raises(InputError, match=r"none\.tar: cannot be read to its end .*No such file"):
        members(tmp_path / "none.tar")


def test_a_flipped_bit_in_a_gzip_raises_an_input_error(tmp_path: Path) -> None:
    path = pack(tmp_path / "rotten.tar.gz", FILES, "w:gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"rotten\.tar\.gz: cannot be read to its end"):
        members(path)


def test_a_full_disk_is_reported(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Iterator[Member]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive, "_walk", full)
    with pytest.raises(OSError, match="No space left"):
        members(packed)


def test_a_gzip_by_another_name_is_read(tmp_path: Path) -> None:
    plain = pack(tmp_path / "a.tar", FILES)
    (tmp_path / "b.tar").write_bytes(gzip.compress(plain.read_bytes()))
    name = "train/6.bin"
    assert fetch(str(tmp_path / "b.tar"), members(tmp_path / "b.tar")[name]) == FILES[name]


def test_another_file_in_the_same_place_is_not_taken_for_it(packed: Path) -> None:
    member = members(packed)["train/2.bin"]
    swapped = {**FILES, "train/2.bin": FILES["train/3.bin"], "train/3.bin": FILES["train/2.bin"]}
    pack(packed, dict(reversed(swapped.items())), MODES[packed.name])  # as long as before
    with pytest.raises(OSError, match=r"has changed: train/2\.bin is no longer there"):
        fetch(str(packed), member)
    pack(packed, {"a": b"b"}, MODES[packed.name])
    with pytest.raises(OSError, match="has changed"):
        fetch(str(packed), member)


def test_a_file_beyond_all_bounds_is_not_read() -> None:
    with pytest.raises(OSError, match=r"2147483648 bytes in an archive; .* unpack it"):
        fetch("/none.tar", Member("a.wav", 512, 2**31))


@pytest.fixture(params=["sound.tar", "sound.tar.gz"])
def sound(request: pytest.FixtureRequest, tmp_path: Path, write_clip: WriteClip) -> list[Utterance]:
    """Return two utterances in an archive, of 1 and 2 s, and one that is not in it."""
    clips = {f"{n}.wav": write_clip(tmp_path / f"{n}.wav", n).read_bytes() for n in (1.0, 2.0)}
    path = pack(tmp_path / request.param, clips, "w:gz" if request.param.endswith("z") else "w")
    audios = [locator(path, member) for member in members(path).values()]
    return [Utterance(id=a, audio=a, text="one") for a in [*audios, f"{path}/3.0.wav"]]


def test_audio_in_an_archive_is_decoded_slices_too(sound: list[Utterance], tmp_path: Path) -> None:
    samples, rate = decode(sound[1].audio, 0.5, 1.5)
    whole, _ = decode(str(tmp_path / "2.0.wav"))
    assert torch.equal(samples, whole[rate // 2 : rate * 3 // 2])


def test_a_scan_measures_and_remembers_it(
    sound: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(workers=0)
    first = scan(sound, config, tmp_path / "cache.jsonl", show=False)
    assert [first[u.audio].seconds for u in sound[:2]] == [1.0, 2.0]
    assert first[sound[2].audio].reason == "missing"
    monkeypatch.setattr(archive, "fetch", lambda *_: pytest.fail("read again"))
    assert scan(sound, config, tmp_path / "cache.jsonl", show=False) == first


def test_a_scan_of_headers_finds_what_is_missing(sound: list[Utterance], tmp_path: Path) -> None:
    known = [Utterance(id=u.id, audio=u.audio, text=u.text, seconds=1.0) for u in sound]
    config = DataConfig(workers=0, scan="header")
    found = scan(known, config, tmp_path / "cache.jsonl", show=False)
    assert {audio: each.reason for audio, each in found.items()} == {sound[2].audio: "missing"}


def test_audio_is_missing_once_its_archive_is_gone(sound: list[Utterance]) -> None:
    file = Path(containing_file(sound[0].audio) or "")
    decode(sound[0].audio)
    shutil.move(file, file.with_name("moved"))
    with pytest.raises(AudioError) as error:
        decode(sound[0].audio)
    assert error.value.reason == "missing"
