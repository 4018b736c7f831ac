"""`python -m trainer doctor` finds faults, suggests remedies, and runs all checks."""

from pathlib import Path

import pytest
import soundfile
import torch
from rich.console import Console

from data.errors import InputError
from tests.forked import run_module
from trainer.commands import doctor_audio as pipeline
from trainer.commands import doctor_machine as machine
from trainer.commands.doctor import DoctorConfig, checks, doctor, result_table, run_check
from trainer.commands.doctor_machine import CheckResult


def test_a_healthy_machine_passes_and_no_files_remain(tmp_path: Path) -> None:
    done = run_module("trainer", "doctor", f"--runs={tmp_path / 'runs'}")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("decode mp3", "resample 44100 Hz", "log-mel", "tokenizer", "generation config"):
        (line,) = (each for each in done.stdout.splitlines() if f" {name} " in each)
        assert " ok " in line
    assert list(tmp_path.iterdir()) == []


def test_a_failed_check_sets_status_1_and_other_checks_run(
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


def test_a_skipped_check_is_not_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "trainer.commands.doctor.checks", lambda *_: [("a", lambda: CheckResult(None, ""))]
    )
    assert doctor(DoctorConfig()) == 0


def test_an_input_error_is_shown_unchanged() -> None:
    def fail() -> CheckResult:
        raise InputError("no/model: cannot be loaded: set model.name")

    assert run_check(fail) == CheckResult(False, "no/model: cannot be loaded: set model.name", "")


def test_square_brackets_are_not_markup() -> None:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(result_table([("a", CheckResult(False, "[red]x[/red]", "[b]"))]))
    assert "[red]x[/red]" in captured.get()


def test_a_package_of_the_wrong_version_or_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["torch>=99", "no-such-package>=1", "rich>=1", 'pytest>=99; extra == "test"']
    monkeypatch.setattr(machine, "requires", lambda _: asked)
    result = machine.versions()
    assert result.ok is False
    assert result.remedy
    assert "torch" in result.finding
    assert "no-such-package is missing" in result.finding
    assert "rich" not in result.finding
    assert "pytest" not in result.finding


def test_a_torchcodec_that_does_not_load_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torchcodec.py").write_text("raise OSError('libavutil is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(machine, "version", lambda _: "0.9")
    assert machine.torchcodec().ok is False
    (tmp_path / "torchcodec.py").write_text("")
    assert machine.torchcodec().ok is True


def test_a_gpu_that_torch_does_not_see_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    assert machine.gpu().ok is False
    monkeypatch.setattr(machine.shutil, "which", lambda _: None)
    assert machine.gpu().ok is None


def test_too_little_space_fails_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, look in {
        "MIN_DISK": lambda: machine.disk(tmp_path),
        "MIN_MEMORY": machine.memory,
        "MIN_SHARED_MEMORY": machine.shared_memory,
    }.items():
        monkeypatch.setattr(machine, name, 1e9)
        result = look()
        assert result.ok is False, name
        assert result.remedy


def test_a_folder_that_is_not_writable_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    result = machine.disk(Path("/proc/self/runs"))
    assert result.ok is False
    assert "cannot be written" in result.finding


def test_a_broken_decoder_resampler_or_mel_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write = soundfile.write
    monkeypatch.setattr(
        pipeline.soundfile, "write", lambda path, data, *a, **k: write(path, data / 3, *a, **k)
    )
    assert pipeline.decoding("mp3", tmp_path).ok is False
    monkeypatch.setattr(pipeline, "resampler", lambda _: lambda tone: tone[:16_000])
    assert pipeline.resampling(48_000).ok is False
    monkeypatch.setattr(pipeline, "LogMel", lambda _: lambda audio: torch.zeros(1, 80, 300))
    assert pipeline.log_mel().ok is False


def test_a_missing_model_is_a_failed_check(tmp_path: Path) -> None:
    found = dict(checks(DoctorConfig(model=str(tmp_path / "none")), tmp_path))
    result = run_check(found["tokenizer"])
    assert result.ok is False
    assert "none" in result.finding
