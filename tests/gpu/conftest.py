"""What the tests on a GPU share. With WHISPER_LOOP_SMOKE=1 they are tried on the CPU."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmark"))  # imported by name

from gpu.rows import smoke
from synthetic import make_corpus, make_model

from data.atomic_files import read_jsonl

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 100  # of one run; the program that runs these tests ends them sooner


def skip_without() -> None:
    """Skip where there is no GPU, and nobody asked to try on a CPU."""
    if not (smoke() or torch.cuda.is_available()):
        pytest.skip("needs a GPU; WHISPER_LOOP_SMOKE=1 tries it on a CPU")


@pytest.fixture
def device() -> torch.device:
    """Return the GPU."""
    skip_without()
    return torch.device("cpu" if smoke() else "cuda")


@pytest.fixture
def gpu(device: torch.device) -> torch.device:
    """Return the GPU, where a CPU could not take its place."""
    if device.type != "cuda":
        pytest.skip("a CPU cannot show it")
    return device


@pytest.fixture(autouse=True)
def own_state() -> Iterator[None]:
    """Reset Accelerate's state and empty the CUDA cache: each test chooses its own precision."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Runs:
    """Trains as a person does: in other processes, from real files."""

    def __init__(self, corpus: Path, model: Path, size: str) -> None:
        """Take what runs start from."""
        self.corpus = corpus
        self.model = model
        self.size = size

    def arguments(self, run: Path, *extra: str) -> list[str]:
        """Return the arguments of a short run; later ones win."""
        return [
            f"--run_dir={run}",
            f"--model.name={self.model}",
            f"--data.corpus={self.corpus}",
            "--data.language=en",
            "--data.update_clips=8",
            "--data.dev_split=None",
            "--data.test_split=None",
            f"--data.workers={0 if smoke() else 2}",
            "--loop.eval_every=1000",
            "--checkpoint.save_every=1000",
            "--log.log_every=1",
            "--eval.non_speech=False",
            "--eval.max_length=8",
            "--optim.lr=1e-3",
            "--optim.warmup=2",
            *extra,
        ]

    def start(self, command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program of this repository to its end."""
        return subprocess.run(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )

    def __call__(self, run: Path, *extra: str, **faults: Any) -> str:
        """Train to the end; return what was printed.

        Args:
            run: the run's folder.
            extra: further arguments.
            faults: what tests/gpu/fault_injection.py does to the run.
        """
        done = self.try_(run, *extra, **faults)
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    def losses(self, run: Path) -> list[float]:
        """Return the loss of each update that a run wrote down."""
        rows = read_jsonl(run / "metrics.jsonl")
        return [row["train/loss"] for row in rows if "train/loss" in row]

    def try_(self, run: Path, *extra: str, **faults: Any) -> subprocess.CompletedProcess[str]:
        """Train; return how it ended."""
        program = "tests/gpu/fault_injection.py" if faults else "trainer/main.py"
        told = {"WHISPER_LOOP_FAULTS": json.dumps(faults)} if faults else {}
        return self.start([program, *self.arguments(run, *extra)], **told)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return what trains a tiny Whisper of random weights on noise."""
    skip_without()
    folder = tmp_path_factory.mktemp("synthetic")
    size = "nano" if smoke() else "tiny"
    clips = (24, 4, 4) if smoke() else (256, 16, 16)
    make_corpus(
        folder / "corpus", dict(zip(("train", "dev", "test"), clips, strict=True)), suffix="flac"
    )
    make_model(size, folder / "corpus", folder / "model")
    return Runs(folder / "corpus", folder / "model", size)
