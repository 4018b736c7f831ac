"""The doctor's checks of the machine: versions, devices, memory, disk, processes."""

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
    """What a check found."""

    ok: bool | None  # None: there was nothing to look at
    found: str
    remedy: str = ""  # what to do, where it is not ok


PROJECT = "whisper-loop"
LEAST_MEMORY = 4  # GB: less holds no model, optimizer and workers
LEAST_SHARED = 1  # GB: the batches that workers hand over lie there
LEAST_DISK = 10  # GB: three checkpoints of whisper-small, and its model


def versions() -> CheckResult:
    """Compare what is installed with what the project asks for."""
    try:
        asked = [Requirement(line) for line in requires(PROJECT) or ()]
    except PackageNotFoundError:
        return CheckResult(None, f"{PROJECT} is not installed: nothing says what it needs")
    wrong = []
    for each in asked:
        if each.marker is not None and not each.marker.evaluate({"extra": ""}):
            continue
        try:
            if not each.specifier.contains(version(each.name), prereleases=True):
                wrong.append(f"{each.name} {version(each.name)}, not {each.specifier}")
        except PackageNotFoundError:
            wrong.append(f"{each.name} is missing")
    told = f"torch {torch.__version__}, transformers {version('transformers')}"
    return CheckResult(not wrong, "; ".join(wrong) or told, "pip install -e ." if wrong else "")


def torchaudio() -> CheckResult:
    """Tell whether torchaudio's compiled half fits this torch: nothing here needs it."""
    extension = importlib.import_module("torchaudio._extension")
    pair = f"torchaudio {version('torchaudio')} beside torch {torch.__version__}"
    whole = bool(extension._IS_TORCHAUDIO_EXT_AVAILABLE)
    return CheckResult(
        True, pair if whole else f"{pair}: its Python half, which is all that is used"
    )


def torchcodec() -> CheckResult:
    """Tell whether torchcodec, which transformers takes where it is installed, can be imported."""
    try:
        found = version("torchcodec")
    except PackageNotFoundError:
        return CheckResult(None, "not installed, and not needed")
    tried = subprocess.run(
        [sys.executable, "-c", "import torchcodec"], capture_output=True, text=True, check=False
    )
    told = f"torchcodec {found} beside torch {torch.__version__}"
    if tried.returncode == 0:
        return CheckResult(True, told)
    return CheckResult(
        False, f"{told}: cannot be imported", "pip uninstall torchcodec: unneeded here"
    )


def gpu() -> CheckResult:
    """Tell which GPUs torch sees, and where there is one that it does not see."""
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        free, total = (each / 1e9 for each in torch.cuda.mem_get_info())
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
        told = f"{', '.join(names)}; {free:.0f} of {total:.0f} GB free; CUDA {torch.version.cuda}"
        return CheckResult(True, f"{told}, NCCL {nccl}")
    if not shutil.which("nvidia-smi"):
        return CheckResult(None, "none: training computes on the CPU")
    built = f"torch is built for CUDA {torch.version.cuda or 'none'}"
    return CheckResult(
        False,
        f"there is one, and torch does not see it: {built}",
        "install the torch build of your driver's CUDA version, or a newer driver (nvidia-smi)",
    )


def memory() -> CheckResult:
    """Tell cores, threads and what memory is available."""
    told = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if sys.platform != "linux":
        return CheckResult(True, told)
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    kilobytes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    free, total = (kilobytes[key] / 1e6 for key in ("MemAvailable", "MemTotal"))
    enough = free >= LEAST_MEMORY
    remedy = "" if enough else f"end other programs: {LEAST_MEMORY} GB are wanted"
    return CheckResult(enough, f"{told}; {free:.0f} of {total:.0f} GB free", remedy)


def shared_memory() -> CheckResult:
    """Tell how much memory workers can hand batches over in: containers have 64 MB by default."""
    if not Path("/dev/shm").is_dir():
        return CheckResult(None, "this system has no /dev/shm")
    free = shutil.disk_usage("/dev/shm").free / 1e9
    enough = free >= LEAST_SHARED
    remedy = "" if enough else "docker run --shm-size=8g, or set data.workers=0"
    return CheckResult(enough, f"{free:.1f} GB free in /dev/shm", remedy)


def disk(runs: Path) -> CheckResult:
    """Write, sync and rename a file where runs will be, and tell what is free there."""
    home = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.is_dir())
    probe = home / f".doctor-{os.getpid()}"
    try:
        write_text(probe, "whole or absent")
    except OSError as error:
        told = f"{home}: cannot be written ({error.strerror})"
        return CheckResult(False, told, "set --runs elsewhere")
    probe.unlink()
    free = shutil.disk_usage(home).free / 1e9
    enough = free >= LEAST_DISK
    remedy = "" if enough else f"free some: {LEAST_DISK} GB hold a small model's checkpoints"
    return CheckResult(enough, f"{free:.0f} GB free at {home}", remedy)


def workers() -> CheckResult:
    """Start two workers, as the loader does, and hear from them."""
    numbers = TensorDataset(torch.arange(4))
    heard = [int(batch) for (batch,) in DataLoader(numbers, num_workers=2)]
    return CheckResult(heard == [0, 1, 2, 3], "two started, and answered in order")


def hub() -> CheckResult:
    """Ask whether the Hub can be reached."""
    if constants.HF_HUB_OFFLINE:
        return CheckResult(None, "HF_HUB_OFFLINE is set: nobody asks")
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:  # of whichever library carries the request
        reason = type(error).__name__
        remedy = "set HF_HUB_OFFLINE=1 and name folders, or mend the network"
        return CheckResult(False, f"{constants.ENDPOINT} cannot be reached ({reason})", remedy)
    return CheckResult(True, f"{constants.ENDPOINT} answers")
