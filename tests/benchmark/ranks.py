"""What a start and a resume cost on many processes of one machine, with millions of rows.

    python tests/benchmark/ranks.py

Writes a manifest of synthetic rows whose audio is a few clips of noise, a long losses.jsonl, and a
checkpoint of a Whisper with random weights. The scan of a corpus is not in it: scale.py has that.
--code=FOLDER measures another checkout. docs/reliability.md has the figures.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))  # after this folder: its files

import numpy as np
import soundfile
from measure import Shapes, folder_bytes, screen
from rich.table import Table
from synthetic import make_model

from data.atomic_files import write_json, write_jsonl
from data.config_parser import parse_dataclass
from data.errors import InputError, plain_errors

HALVES = 58  # lengths of clips: 0.5 to 29 s, in halves of a second
POLL_SECONDS = 0.02
Told = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Measure start and resume."""

    rows: int = 2_000_000  # of the manifest
    ranks: int = 8  # processes at a time
    updates: int = 200_000  # rows of losses.jsonl, of 100 clips each
    shapes: Shapes = "tiny"  # of the Whisper whose checkpoint is loaded
    code: str = str(Path(__file__).resolve().parents[2])  # the checkout that is measured
    folder: str = "runs/ranks"  # for what is written; it is removed
    out: str = "runs/ranks.json"


def main() -> None:
    """Measure, write and show."""
    with plain_errors():
        command = parse_dataclass(Command, sys.argv[1:])
        folder = Path(command.folder).absolute()
        shutil.rmtree(folder, ignore_errors=True)
        try:
            told = measured(command, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        write_json(Path(command.out), told)
        screen().print(shown(told))


def measured(command: Command, folder: Path) -> Told:
    """Return all figures."""
    write_rows(folder, command.rows)
    write_jsonl(folder / "train.jsonl", [{"text": "people make way long"}])
    make_model(command.shapes, folder, folder / "model")
    told: Told = {"cores": os.cpu_count(), "rows": command.rows, "ranks": command.ranks}
    told["write index"] = write_index(command, folder)
    told["manifest"] = at_once(command, folder, "manifest", command.ranks)
    write_losses(folder, command.updates)
    told["losses gb"] = (folder / "losses.jsonl").stat().st_size / 1e9
    told["rewind"] = at_once(command, folder, "rewind", 1)
    at_once(command, folder, "save", 1)
    checkpoint = folder_bytes(folder / "checkpoints")
    told["checkpoint gb"] = checkpoint / 1e9
    for mode in ("plain", "fsdp"):
        found = at_once(command, folder, mode, command.ranks)
        # what stays is each process's model and moments, which lie on GPUs where there are some
        beside = (found["peak"] - found["after"]) / checkpoint
        told[mode] = found | {"checkpoints beside": beside}
    told["resume"] = resume(command, folder)
    return told


def write_rows(folder: Path, rows: int) -> None:
    """Write a manifest whose rows are of one of few clips, and these."""
    rng = random.Random(0)
    (folder / "audio").mkdir(parents=True)
    for half in range(1, HALVES + 1):
        noise = np.random.default_rng(half).normal(scale=0.1, size=half * 8_000)
        soundfile.write(folder / f"audio/{half}.wav", noise, 16_000)
    write_jsonl(folder / "manifest.jsonl", (_row(folder, n, rng) for n in range(rows)))
    (folder / "drops.jsonl").touch()


def _row(folder: Path, number: int, rng: random.Random) -> Told:
    half = min(HALVES, max(1, round(2 * rng.lognormvariate(1.5, 0.45))))
    words = max(1, round(half * 1.1 + rng.gauss(0, 2)))
    return {
        "split": "train",
        "id": f"common_voice_en_{number:08d}",
        "audio": f"{folder}/audio/{half}.wav",
        "text": " ".join(("people", "make", "way", "long")[number * n % 4] for n in range(words)),
        "seconds": half / 2,
        "language": "en",
        "speaker": f"{rng.getrandbits(64):016x}",
        "corpus": "synthetic",
        "tokens": words + 5,
    }


def write_losses(folder: Path, updates: int) -> None:
    """Write as many updates' losses, of 100 clips each."""
    ids = [f"common_voice_en_{number:08d}" for number in range(100)]
    row: Told = {"epoch": 0, "ids": ids, "tokens": [17] * 100, "nll": [31.4159] * 100}
    write_jsonl(folder / "losses.jsonl", ({"step": n} | row for n in range(1, updates + 1)))
    write_json(folder / "losses.json", {"updates": updates})


def write_index(command: Command, folder: Path) -> float | None:
    """Have the code that is measured write the manifest's index; return the seconds."""
    program = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "import data.manifest as m; see = getattr(m, 'ensure_index', None); t = time.time()\n"
        "print(see(Path(sys.argv[2])) and time.time() - t if see else None)"
    )
    given = [sys.executable, "-c", program, command.code, str(folder / "manifest.jsonl")]
    told = subprocess.run(given, check=True, capture_output=True, text=True).stdout
    return None if told.strip() == "None" else float(told)


def at_once(command: Command, folder: Path, what: str, ranks: int) -> Told:
    """Have processes do something at the same time; return their figures and their memory."""
    program = str(Path(__file__).with_name("rank.py"))
    given = [sys.executable, program, command.code, what, str(folder), str(folder / "model")]
    started = [
        subprocess.Popen(given, env=each, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for each in environments(ranks if what == "fsdp" else 1, ranks)
    ]
    pids = [each.pid for each in started]
    for each in started:
        wait_for(each, "ready")
    before = peak = pss(pids)
    began = time.perf_counter()
    go(started)
    with ThreadPoolExecutor(ranks) as threads:
        answers = [threads.submit(wait_for, each, "{") for each in started]
        while not all(each.done() for each in answers):
            peak = max(peak, pss(pids))
            time.sleep(POLL_SECONDS)
    told = {"seconds": time.perf_counter() - began, "before": before, "peak": peak}
    told |= {"after": pss(pids)}
    go(started)
    for each in started:
        each.wait()
    rows = [json.loads(each.result()) for each in answers]
    numbers = [key for key, value in rows[0].items() if not isinstance(value, list)]
    told |= {f"mean {key}": fmean(row[key] for row in rows) for key in numbers}
    print(what, told, file=sys.stderr)  # the whole takes minutes
    return told


def go(started: Sequence["subprocess.Popen[str]"]) -> None:
    """Let processes go on."""
    for each in started:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()


def wait_for(process: "subprocess.Popen[str]", begin: str) -> str:
    """Return the next line of a process that begins so."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(begin):
            return line
    raise InputError("a process failed; what it printed says why")


def environments(world: int, ranks: int) -> Iterator[dict[str, str]]:
    """Yield what torchrun would tell each process: of one world, or each of its own."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    told = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if world > 1:
        told |= {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for rank in range(ranks):
        yield (
            os.environ | told | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {})
        )


def pss(pids: Sequence[int]) -> int:
    """Return the memory of processes in bytes; what several of them map is counted once."""
    rollups = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids)
    lines = (line for rollup in rollups for line in rollup.splitlines())
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def resume(command: Command, folder: Path) -> Told:
    """Go on with a run on all processes; return the seconds until its next update is made."""
    for name in ("metrics.jsonl", "losses.jsonl"):
        (folder / name).unlink(missing_ok=True)
    arguments = [
        f"--run_dir={folder}", "--resume=auto", f"--model.name={folder / 'model'}",
        f"--data.corpus={folder}", "--data.update_seconds=80", "--data.dev_split=None",
        "--data.test_split=None", "--data.workers=0", "--optim.schedule=constant",
        "--loop.epochs=3", "--log.log_every=1",
    ]  # fmt: skip
    program = str(Path(command.code) / "trainer/main.py")
    began = time.perf_counter()
    log = (folder.parent / "resume.log").open("w")
    started = [
        subprocess.Popen([sys.executable, program, *arguments], env=each, stdout=log,
                         stderr=subprocess.STDOUT)
        for each in environments(command.ranks, command.ranks)
    ]  # fmt: skip
    metrics = folder / "metrics.jsonl"
    try:
        while not (metrics.exists() and '"step": 2,' in metrics.read_text()):
            if any(each.poll() for each in started):
                raise InputError(f"resume: a process failed: see {log.name}")
            time.sleep(0.1)
        return {"seconds": time.perf_counter() - began}
    finally:
        for each in started:
            each.kill()
            each.wait()


def shown(told: Told) -> Table:
    """Return the figures, one a line: seconds, and bytes as GB."""
    table = Table("", "", title="ranks", title_justify="left", show_header=False)
    for part, value in told.items():
        for name, each in value.items() if isinstance(value, dict) else [("", value)]:
            large = isinstance(each, int | float) and each > 1e7
            figure = f"{each / 1e9:,.2f} GB" if large else f"{each:,.4g}" if each else f"{each}"
            table.add_row(f"{part} {name}", figure)
    return table


if __name__ == "__main__":
    main()
