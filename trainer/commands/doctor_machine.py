"""Checks of `doctor` for versions, GPU, memory, disk, worker processes and network."""

import importlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import constants, get_session
from packaging.requirements import Requirement
from torch.utils.data import DataLoader, TensorDataset

from data.atomic_files import write_text


class CheckResult(NamedTuple):
    """The result of a check."""

    ok: bool | None  # None: skipped
    finding: str
    remedy: str = ""  # what to do if it is not ok


PROJECT = "whisper-loop"
MIN_MEMORY = 4  # GB, for model, optimizer and workers
MIN_SHARED_MEMORY = 1  # GB, for the batches of workers
MIN_DISK = 10  # GB: three checkpoints of whisper-small, and its model


def versions() -> CheckResult:
    """Compare installed versions with the project's requirements."""
    try:
        requirements = [Requirement(line) for line in requires(PROJECT) or ()]
    except PackageNotFoundError:
        return CheckResult(None, f"{PROJECT} is not installed: its requirements are unknown")
    problems = []
    for requirement in requirements:
        name, specifier, marker = requirement.name, requirement.specifier, requirement.marker
        if marker is not None and not marker.evaluate({"extra": ""}):
            continue
        try:
            if not specifier.contains(version(name), prereleases=True):
                problems.append(f"{name} {version(name)}, not {specifier}")
        except PackageNotFoundError:
            problems.append(f"{name} is missing")
    finding = f"torch {torch.__version__}, transformers {version('transformers')}"
    remedy = "pip install -e ." if problems else ""
    return CheckResult(not problems, "; ".join(problems) or finding, remedy)


def torchaudio() -> CheckResult:
    """Report whether torchaudio's compiled extension loads; it is not needed."""
    extension = importlib.import_module("torchaudio._extension")
    finding = f"torchaudio {version('torchaudio')} with torch {torch.__version__}"
    if not extension._IS_TORCHAUDIO_EXT_AVAILABLE:
        finding += ": without its compiled extension, which is not needed"
    return CheckResult(True, finding)


def torchcodec() -> CheckResult:
    """Check that torchcodec can be imported, since transformers imports it if it is installed."""
    try:
        installed = version("torchcodec")
    except PackageNotFoundError:
        return CheckResult(None, "not installed, and not needed")
    process = subprocess.run(
        [sys.executable, "-c", "import torchcodec"], capture_output=True, text=True, check=False
    )
    finding = f"torchcodec {installed} with torch {torch.__version__}"
    if process.returncode == 0:
        return CheckResult(True, finding)
    return CheckResult(
        False, f"{finding}: cannot be imported", "pip uninstall torchcodec: it is not needed"
    )


def gpu() -> CheckResult:
    """Report the GPUs that torch sees, or a GPU that it does not see."""
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        free, total = (size / 1e9 for size in torch.cuda.mem_get_info())
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
        memory = f"{free:.0f} of {total:.0f} GB free"
        finding = f"{', '.join(names)}; {memory}; CUDA {torch.version.cuda}, NCCL {nccl}"
        return CheckResult(True, finding)
    if not shutil.which("nvidia-smi"):
        return CheckResult(None, "no GPU: training runs on the CPU")
    built = f"torch is built for CUDA {torch.version.cuda or 'none'}"
    return CheckResult(
        False,
        f"there is a GPU, but torch does not see it: {built}",
        "install the torch build of your driver's CUDA version, or a newer driver (nvidia-smi)",
    )


def memory() -> CheckResult:
    """Report cores and threads, and check the available memory."""
    finding = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if sys.platform != "linux":
        return CheckResult(True, finding)
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    kilobytes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    free, total = (kilobytes[key] / 1e6 for key in ("MemAvailable", "MemTotal"))
    enough = free >= MIN_MEMORY
    remedy = "" if enough else f"close other programs: {MIN_MEMORY} GB are needed"
    return CheckResult(enough, f"{finding}; {free:.0f} of {total:.0f} GB free", remedy)


def shared_memory() -> CheckResult:
    """Check the shared memory that workers pass batches in: containers have 64 MB by default."""
    if not Path("/dev/shm").is_dir():
        return CheckResult(None, "this system has no /dev/shm")
    free = shutil.disk_usage("/dev/shm").free / 1e9
    enough = free >= MIN_SHARED_MEMORY
    remedy = "" if enough else "docker run --shm-size=8g, or set data.workers=0"
    return CheckResult(enough, f"{free:.1f} GB free in /dev/shm", remedy)


def disk(runs: Path) -> CheckResult:
    """Write, sync and rename a file in the folder of runs, and check the free space.

    Args:
        runs: the folder, which need not exist.
    """
    existing = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.is_dir())
    probe = existing / f".doctor-{os.getpid()}"
    try:
        write_text(probe, "whole or absent")
    except OSError as error:
        finding = f"{existing}: cannot be written ({error.strerror})"
        return CheckResult(False, finding, "choose another folder with --runs")
    probe.unlink()
    free = shutil.disk_usage(existing).free / 1e9
    enough = free >= MIN_DISK
    remedy = "" if enough else f"free some space: checkpoints of a small model need {MIN_DISK} GB"
    return CheckResult(enough, f"{free:.0f} GB free at {existing}", remedy)


def workers() -> CheckResult:
    """Check that two DataLoader workers start and return batches in order."""
    dataset = TensorDataset(torch.arange(4))
    received = [int(batch) for (batch,) in DataLoader(dataset, num_workers=2)]
    return CheckResult(received == [0, 1, 2, 3], "two workers started and returned batches")


def hub() -> CheckResult:
    """Check that the Hub can be reached."""
    if constants.HF_HUB_OFFLINE:
        return CheckResult(None, "HF_HUB_OFFLINE is set: not checked")
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:  # also of httpx or requests
        reason = type(error).__name__
        remedy = "check the network, or set HF_HUB_OFFLINE=1 and use local folders"
        return CheckResult(False, f"{constants.ENDPOINT} cannot be reached ({reason})", remedy)
    return CheckResult(True, f"{constants.ENDPOINT} answers")
