"""Fixtures: small real files, a small real model, and the environment of the tests."""

# ruff: noqa: E402  # the environment is set before what depends on it is imported

import fcntl
import gc
import hashlib
import json
import multiprocessing.forkserver
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# before anything of Hugging Face is imported: a missing hub costs minutes of retries
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# before torch loads OpenMP, here and in every process that a test starts: threads of several
# processes on few cores would spin while they wait for each other, and take each other's time. Only
# for tests: a training that has the machine to itself is faster when its threads spin
os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
# until all tests are collected: imports make a million objects and no garbage, and looking for it
# takes half of the processor time until then
gc.disable()

import numpy as np
import pytest
import soundfile
import torch

from tests import forked
from tests.forked import STARTED, Sabotage
from tests.session import nothing_outlives_the_session  # noqa: F401  # a fixture
from trainer.commands.tiny_model import TinyModelConfig, make_tiny_model

pytest.register_assert_rewrite("tests.campaign")
torch.set_num_threads(1)  # two threads of small products on two shared cores mostly wait

HEADER = (
    "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\t"
    "accents\tvariant\tlocale\tsegment"
)
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SPLITS = {"train": 24, "dev": 6, "test": 6}

WriteClip = Callable[..., Path]


def pytest_collection_finish() -> None:
    """Enable the collection of garbage, but not among what was imported."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes run tests: two more than cores, for those that wait."""
    return (os.cpu_count() or 1) + 2


def _write_clip(
    path: Path,
    seconds: float,
    rate: int = 16_000,
    channels: int = 1,
    frequency: float = 440.0,
) -> Path:
    """Write a tone; the suffix says the format."""
    time = np.arange(round(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * frequency * time)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.repeat(tone[:, None], channels, axis=1), rate)
    return path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute on one thread: on a busy machine two wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Return a headless Chromium: one for all tests, since a start takes a second."""
    chromium, driver = (
        next(filter(None, map(shutil.which, names)), None)
        for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))
    )
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # in a container there are no namespaces for its sandbox, and /dev/shm is small
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--mute-audio"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture
def write_clip() -> WriteClip:
    """Return a function that writes a tone."""
    return _write_clip


def make_tone_corpus(folder: Path, *, locale: str = "en", splits: dict[str, int] = SPLITS) -> Path:
    """Write a Common Voice folder of tones of 0.6 to 4 seconds: a number has a pitch of its own."""
    rng = np.random.default_rng(0)
    durations = ["clip\tduration[ms]"]
    tables: dict[str, list[str]] = {}
    for split, count in splits.items():
        for number in range(count):
            digits = rng.integers(0, 10, size=rng.integers(1, 5))
            name = f"common_voice_{locale}_{split}_{number:03d}.mp3"
            seconds = round(0.4 + 0.8 * len(digits) + 0.1 * float(rng.random()), 2)
            _write_clip(
                folder / "clips" / name, seconds, 48_000, frequency=200 + 60 * int(digits[0])
            )
            durations.append(f"{name}\t{round(seconds * 1000)}")
            text = " ".join(WORDS[d] for d in digits)
            row = [
                f"{split}-{number % 3}",
                name,
                "",
                text,
                "",
                "2",
                "0",
                "",
                "",
                "",
                "",
                locale,
                "",
            ]
            tables.setdefault(split, []).append("\t".join(row))
    tables["validated"] = [row for rows in tables.values() for row in rows]
    for split, rows in tables.items():
        (folder / f"{split}.tsv").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    (folder / "clip_durations.tsv").write_text("\n".join(durations) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all pytest-xdist workers share, for files made once a session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first process which asks for it fills; the others wait for that."""
    folder.parent.mkdir(exist_ok=True)
    made = folder.parent / f"{folder.name}.made"
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed half-way
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def tone_corpus(shared: Path) -> Path:
    """Return a Common Voice folder of tones: 24 clips to train on, 6 in dev, 6 in test."""
    return made_once(shared / "corpus" / "en", make_tone_corpus)


@pytest.fixture(scope="session")
def blank_model(shared: Path, tone_corpus: Path) -> Path:
    """Return a Whisper of 0.1 M parameters with random weights, which knows en and zh."""

    def make(out: Path) -> None:
        other = make_tone_corpus(out.parent / "zh-TW", locale="zh-TW", splits={"train": 1})
        config = TinyModelConfig(
            out=str(out),
            corpus=(str(tone_corpus), str(other)),
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            heads=2,
        )
        make_tiny_model(config)

    return made_once(shared / "model" / "blank", make)


@pytest.fixture(scope="session")
def wide_model(shared: Path, tone_corpus: Path) -> Path:
    """Return one of width 128: at this width the stock backward is not deterministic by itself."""

    def make(out: Path) -> None:
        corpus = (str(tone_corpus),)
        make_tiny_model(
            TinyModelConfig(out=str(out), corpus=corpus, encoder_layers=2, decoder_layers=2)
        )

    return made_once(shared / "wide" / "blank", make)


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Kill the processes that a test started and did not wait for."""
    yield
    while STARTED:
        process = STARTED.pop()
        kill_all(process.pid)
        process.join(30)


@pytest.fixture(autouse=True, scope="session")
def no_forkserver_left() -> Iterator[None]:
    """End the process that runs are forked from: one of them would keep it alive."""
    yield
    server = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]
    if server._forkserver_pid is not None:
        os.kill(server._forkserver_pid, signal.SIGKILL)
        server._stop()  # waits for it


def descendants(pid: int) -> set[int]:
    """Return the ids of all processes below one."""
    found: set[int] = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found |= {int(child)} | descendants(int(child))
    return found


def kill_all(pid: int) -> None:
    """Kill a process of these tests, where it still runs, and all below it."""
    for each in (pid, *descendants(pid)):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


@contextmanager
def started(command: list[str], **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program, and leave nothing of it, whatever the test comes to."""
    with subprocess.Popen(command, **more) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                kill_all(process.pid)


@dataclass
class Done:
    """How a run ended."""

    returncode: int
    output: str


class Trainer:
    """Runs the trainer as a person does: other processes, real files."""

    def __init__(self, corpus: Path, model: Path, shared: Path) -> None:
        """Take the corpus and the model that runs start from, and where runs are shared."""
        self.corpus = corpus
        self.model = model
        self.shared = shared

    def arguments(self, run: Path, *extra: str) -> list[str]:
        """Return short-run arguments, and more."""
        return [
            f"--run_dir={run}",
            f"--model.name={self.model}",
            "--data.corpus",
            str(self.corpus),
            "--data.update_clips=8",
            "--data.workers=0",
            "--data.pad=bucket",  # padded to 30 s everything takes ten times as long
            "--loop.max_steps=6",
            "--loop.eval_every=100",
            "--data.dev_split=None",
            "--data.test_split=None",
            "--checkpoint.save_every=3",
            "--log.log_every=1",
            "--eval.non_speech=False",  # 12 more clips, padded to 30 s before training
            "--optim.lr=1e-3",
            "--optim.warmup=2",
            *extra,
        ]

    def start(
        self, run: Path, *extra: str, processes: int = 1, sabotage: Sabotage | None = None
    ) -> list[Any]:
        """Start a run, and return its processes."""
        port = str(free_port())
        threads = "2" if processes == 1 else "1"  # of one alone nothing could change the bits
        environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": threads}
        if processes > 1:  # what torchrun tells its children
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment |= {"WORLD_SIZE": str(processes)}
        logs = [run.parent / f"{run.name}.{rank}.log" for rank in range(processes)]
        for log in logs:
            log.unlink(missing_ok=True)  # of an earlier start
        return [
            forked.start(
                forked.Program(
                    work=forked.train,
                    arguments=("trainer/main.py", *self.arguments(run, *extra)),
                    out=log,
                    err=log,
                    cwd=run.parent,
                    environment=environment | ({} if processes == 1 else ranks(rank)),
                    sabotage=sabotage,
                )
            )
            for rank, log in enumerate(logs)
        ]

    def __call__(
        self,
        run: Path,
        *extra: str,
        processes: int = 1,
        check: bool = True,
        sabotage: Sabotage | None = None,
    ) -> Done:
        """Train, on one process or several, and wait for the end."""
        started = self.start(run, *extra, processes=processes, sabotage=sabotage)
        for process in started:
            process.join(timeout=300)
        logs = [run.parent / f"{run.name}.{rank}.log" for rank in range(processes)]
        output = "".join(log.read_text(encoding="utf-8") for log in logs)
        codes = [process.exitcode for process in started]
        assert not check or codes == [0] * processes, output
        return Done(
            returncode=max(1 if code is None else abs(code) for code in codes), output=output
        )

    def reference(self, *extra: str, processes: int = 1, sabotage: Sabotage | None = None) -> Path:
        """Return a run that was left alone: one for all tests that ask for these arguments.

        Tests read or copy it, and never resume it.
        """
        what = (*self.arguments(Path(), *extra), str(processes))
        if isinstance(sabotage, partial):
            what += (sabotage.func.__qualname__, repr(sabotage.args))
        name = hashlib.sha256("\0".join(what).encode()).hexdigest()[:16]
        make = partial(self, processes=processes, sabotage=sabotage)
        return made_once(self.shared / "runs" / name, lambda run: make(run, *extra))


def ranks(rank: int) -> dict[str, str]:
    """Return the environment variables of a process of several."""
    return {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.fixture(scope="session")
def trainer(tone_corpus: Path, blank_model: Path, shared: Path) -> Trainer:
    """Return a function that trains the smallest model on the tone corpus."""
    return Trainer(tone_corpus, blank_model, shared)


@pytest.fixture(scope="session")
def wide_trainer(tone_corpus: Path, wide_model: Path, shared: Path) -> Trainer:
    """Return a function that trains a model whose bits differ as soon as anything does.

    An update takes three times as long as the smallest model's.
    """
    return Trainer(tone_corpus, wide_model, shared)


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in which indexes of archives are kept, instead of the home folder."""
    home = tmp_path / "cache_home"
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(home))
    return home


def read_losses(run: Path) -> dict[int, str]:
    """Return the exact loss of each update, as hexadecimal."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["step"]: row["train/loss"].hex() for row in rows if "train/loss" in row}


@pytest.fixture
def losses() -> Callable[[Path], dict[int, str]]:
    """Return a function that reads a run's exact losses."""
    return read_losses


@pytest.fixture
def copied(tone_corpus: Path, tmp_path: Path) -> Path:
    """Return a copy of the tone corpus, to be broken."""
    return Path(shutil.copytree(tone_corpus, tmp_path / "copied" / "en"))
