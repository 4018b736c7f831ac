"""A run's folder: opened once, with what was asked, with what, and how it ended."""

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
from data.corpora.text_rules import count_rules
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

SPOOL, PLACES = "stream", "stream.jsonl"  # audio of a stream, while it is needed; its windows


@contextmanager
def opened(folder: Path, resume: str | None) -> Iterator[None]:
    """Hold the lock of a run's folder, once it is settled that it may be written to.

    Raises:
        InputError: another process trains the run; or it is there, and nobody said to go on with
            it.
    """
    with locked(folder):
        _settle_folder(folder, resume)
        yield


def _settle_folder(folder: Path, resume: str | None) -> None:
    if (folder / "config.yaml").exists() and resume is None:
        raise InputError(
            f"{folder}: holds a run already: go on with --resume=auto, or name another: --run_dir="
        )
    if launched_rank() == "0":  # it has the lock
        shutil.rmtree(folder / SPOOL, ignore_errors=True)  # what a start that was killed left


def freeze_corpus(
    folder: Path,
    config: DataConfig,
    encoder: LabelEncoder,
    accelerator: Accelerator,
    *,
    seed: int,
    resumed: bool,
) -> Manifest:
    """Return the run's manifest: frozen at the first start, read back on every process.

    All processes measure the corpus; nobody waits in a collective, which would time out.
    That of a stream holds its first window, by which a resume knows it again.

    Raises:
        InputError: the corpus cannot be used.
    """
    path = folder / "manifest.jsonl"
    if resumed and run_on_main_process(
        accelerator, lambda: ensure_index(path)
    ):  # all of them, or none
        return Manifest.read(wait_until_visible(path))
    frozen: list[Manifest] = []  # on the main process

    def freeze(measure_files: MeasureFiles) -> None:
        frozen.append(_freeze(path, config, encoder, seed, measure_files))

    scan_together(accelerator, config, freeze)
    return frozen[0] if frozen else Manifest.read(wait_until_visible(path))


def _freeze(
    path: Path,
    config: DataConfig,
    encoder: LabelEncoder,
    seed: int,
    measure_files: MeasureFiles,
) -> Manifest:
    path.with_name(PLACES).unlink(missing_ok=True)  # of an earlier start, which saved nothing
    named_in = path.with_name("drops.jsonl")
    cache = scan_cache_path(path.parent.parent, config)
    manifest, drops = build_manifest(
        config, encoder, cache, show=True, seed=seed, measure_files=measure_files
    )
    write_jsonl(named_in, map(asdict, drops))
    for split, reasons in count_reasons(drops).items():
        reasons_text = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
        print(f"left out of {split}: {reasons_text} (named in {named_in})")
    changed = count_rules([*manifest.train, *manifest.dev, *manifest.test])
    if changed:
        write_json(path.with_name("transcripts.json"), changed)
    for corpus, rules in changed.items():
        rules_text = "; ".join(f"{count:,} × {rule}" for rule, count in rules.items())
        print(f"transcripts of {corpus} changed: {rules_text}")
    rows = len(manifest.train) + sum(drop.split == config.train_split for drop in drops)
    refuse_broken(drops, rows, config, named_in)
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
        accelerator: knows the device, the processes and the precision.
        data: the fingerprint of what is trained on, and the commits it is of.
        peak: that MFU is a share of, as it is known at the start.
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
    """Return the commit of this code, marked where it has been changed since."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=here,
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
