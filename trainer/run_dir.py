"""The run's folder: its lock, the frozen manifest, config.yaml and environment.json."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from data.atomic_files import write_json, write_jsonl, write_text
from data.config import DataConfig
from data.corpora.transcript_rules import count_rules
from data.errors import InputError, launched_rank, redact
from data.labels import LabelEncoder
from data.manifest import Manifest, build_manifest, ensure_index, scan_cache_path
from data.screening.durations import MeasureFiles
from data.screening.filters import count_reasons, refuse_broken
from eval.main_process import run_on_main_process, wait_until_visible
from trainer.distributed.shared_scan import scan_together
from trainer.metrics.flops import Peak
from trainer.process.run_lock import locked

PACKAGES = (
    "whisper-loop",
    "torch",
    "torchaudio",
    "accelerate",
    "transformers",
    "datasets",
    "jiwer",
    "safetensors",
    "soundfile",
)

SPOOL = "stream"  # audio of the current windows of a stream
WINDOWS = "stream.jsonl"  # positions of the windows of a stream


@contextmanager
def open_run_dir(folder: Path, resume: str | None) -> Iterator[None]:
    """Hold the lock of the run's folder while the body runs.

    Raises:
        InputError: another process trains this run, or the folder holds a run and `resume` is not
            set.
    """
    with locked(folder):
        if (folder / "config.yaml").exists() and resume is None:
            raise InputError(
                f"{folder}: holds a run already: resume it with --resume=auto, or set --run_dir= "
                "to another folder"
            )
        if launched_rank() == "0":  # the process that holds the lock
            shutil.rmtree(folder / SPOOL, ignore_errors=True)  # left by a start that was killed
        yield


def freeze_corpus(
    folder: Path,
    config: DataConfig,
    labels: LabelEncoder,
    accelerator: Accelerator,
    *,
    seed: int,
    resumed: bool,
) -> Manifest:
    """Write the run's manifest at the first start, or read it; return it on every process.

    All processes measure the corpus, without collectives, which would time out. The manifest of a
    stream holds its first window, by which a resume identifies the stream.

    Raises:
        InputError: the corpus cannot be used.
    """
    path = folder / "manifest.jsonl"
    if resumed and run_on_main_process(accelerator, lambda: ensure_index(path)):
        return Manifest.read(wait_until_visible(path))
    written: list[Manifest] = []  # one, on the main process only

    def freeze(measure_files: MeasureFiles) -> None:
        written.append(_write_manifest(path, config, labels, seed, measure_files))

    scan_together(accelerator, config, freeze)
    return written[0] if written else Manifest.read(wait_until_visible(path))


def _write_manifest(
    path: Path,
    config: DataConfig,
    labels: LabelEncoder,
    seed: int,
    measure_files: MeasureFiles,
) -> Manifest:
    path.with_name(WINDOWS).unlink(missing_ok=True)  # of an earlier start that saved nothing
    drops_path = path.with_name("drops.jsonl")
    cache = scan_cache_path(path.parent.parent, config)
    manifest, drops = build_manifest(
        config, labels, cache, show=True, seed=seed, measure_files=measure_files
    )
    write_jsonl(drops_path, map(asdict, drops))
    for split, reasons in count_reasons(drops).items():
        reasons_text = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
        print(f"left out of {split}: {reasons_text} (listed in {drops_path})")
    changed = count_rules([*manifest.train, *manifest.dev, *manifest.test])
    if changed:
        write_json(path.with_name("transcripts.json"), changed)
    for corpus, rules in changed.items():
        rules_text = "; ".join(f"{count:,} × {rule}" for rule, count in rules.items())
        print(f"transcripts of {corpus} changed: {rules_text}")
    rows = len(manifest.train) + sum(drop.split == config.train_split for drop in drops)
    refuse_broken(drops, rows, config, drops_path)
    return manifest.write(path)


def write_settings(
    folder: Path,
    config: str,
    accelerator: Accelerator,
    data: dict[str, Any],
    peak: Peak,
) -> None:
    """Write config.yaml and environment.json.

    Args:
        folder: the run's.
        config: the resolved config as YAML.
        accelerator: device, processes and precision.
        data: fingerprint of the training set, and the commits that it was read from.
        peak: FLOP/s of the device, which MFU is relative to.
    """
    if not accelerator.is_main_process:
        return
    device = accelerator.device
    write_text(folder / "config.yaml", redact(config))
    write_json(
        folder / "environment.json",
        {
            "command": [redact(argument) for argument in sys.argv],
            "commit": _commit(),
            **data,
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else platform.machine(),
            "peak_flops": {"per_second": peak.per_second, "source": peak.source},
            "precision": accelerator.mixed_precision,
            "processes": accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in PACKAGES},
        },
    )


def _commit() -> str | None:
    """Return the commit of this code, with -dirty if there are uncommitted changes."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ImportError:
        return None
