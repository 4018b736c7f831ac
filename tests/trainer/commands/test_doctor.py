"""The doctor finds what is wrong, says what to do, and goes on."""

import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from rich.console import Console

from data.errors import InputError
from trainer.commands import doctor_audio as pipeline
from trainer.commands import doctor_machine as machine
from trainer.commands.doctor import DoctorConfig, checks, doctor, examine, shown
from trainer.commands.doctor_machine import CheckResult


def test_a_sound_machine_is_told_so_and_nothing_is_left_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "doctor", f"--runs={tmp_path / 'runs'}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("decode mp3", "resample 44100 Hz", "log-mel", "tokenizer", "generation config"):
        (line,) = (each for each in done.stdout.splitlines() if f" {name} " in each)
        assert " ok " in line
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_makes_the_status_1_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "trainer.commands.doctor.checks",
        lambda *_: [("first", lambda: 1 / 0), ("second", lambda: CheckResult(True, "fine"))],
    )
    assert doctor(DoctorConfig(runs=str(tmp_path))) == 1
    told = capsys.readouterr().out
    assert "ZeroDivisionError" in told
    assert "fine" in told


def test_what_nobody_looked_at_is_not_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "trainer.commands.doctor.checks", lambda *_: [("a", lambda: CheckResult(None, ""))]
    )
    assert doctor(DoctorConfig()) == 0


def test_a_sentence_for_the_user_is_shown_as_it_is() -> None:
    def fail() -> CheckResult:
        raise InputError("no/model: cannot be loaded: set model.name")

    assert examine(fail) == CheckResult(False, "no/model: cannot be loaded: set model.name", "")


def test_square_brackets_are_no_markup() -> None:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(shown([("a", CheckResult(False, "[red]x[/red]", "[b]"))]))
    assert "[red]x[/red]" in captured.get()


def test_a_package_of_the_wrong_version_or_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["torch>=99", "no-such-package>=1", "rich>=1", 'pytest>=99; extra == "test"']
    monkeypatch.setattr(machine, "requires", lambda _: asked)
    symptom = machine.versions()
    assert symptom.ok is False
    assert symptom.remedy
    assert "torch" in symptom.found
    assert "no-such-package is missing" in symptom.found
    assert "rich" not in symptom.found
    assert "pytest" not in symptom.found


def test_a_codec_that_does_not_load_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torchcodec.py").write_text("raise OSError('libavutil is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(machine, "version", lambda _: "0.9")
    assert machine.torchcodec().ok is False
    (tmp_path / "torchcodec.py").write_text("")
    assert machine.torchcodec().ok is True


def test_a_gpu_that_torch_does_not_see_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    assert machine.gpu().ok is False
    monkeypatch.setattr(machine.shutil, "which", lambda _: None)
    assert machine.gpu().ok is None


def test_little_room_is_wrong_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, look in {
        "LEAST_DISK": lambda: machine.disk(tmp_path),
        "LEAST_MEMORY": machine.memory,
        "LEAST_SHARED": machine.shared_memory,
    }.items():
        monkeypatch.setattr(machine, name, 1e9)
        symptom = look()
        assert symptom.ok is False, name
        assert symptom.remedy


def test_a_folder_that_cannot_be_written_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    symptom = machine.disk(Path("/proc/self/runs"))
    assert symptom.ok is False
    assert "cannot be written" in symptom.found


def test_a_broken_decoder_resampler_and_mel_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write = soundfile.write
    monkeypatch.setattr(
        pipeline.soundfile, "write", lambda path, data, *a, **k: write(path, data / 3, *a, **k)
    )
    assert pipeline.decoded("mp3", tmp_path).ok is False
    monkeypatch.setattr(pipeline, "resampler", lambda _: lambda tone: tone[:16_000])
    assert pipeline.resampled(48_000).ok is False
    monkeypatch.setattr(pipeline, "LogMel", lambda _: lambda audio: torch.zeros(1, 80, 300))
    assert pipeline.mel().ok is False


def test_a_model_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    found = dict(checks(DoctorConfig(model=str(tmp_path / "none")), tmp_path))
    symptom = examine(found["tokenizer"])
    assert symptom.ok is False
    assert "none" in symptom.found
