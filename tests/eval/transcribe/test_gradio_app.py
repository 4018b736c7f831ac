"""`python -m eval try`: a real server transcribes with two models, and reports invalid audio."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from data.config_parser import parse_dataclass
from data.errors import InputError
from eval.transcribe.command import load_transcriber
from eval.transcribe.gradio_app import TryCommand, build_page, transcribe_file

ROOT = Path(__file__).resolve().parents[3]
SHORT = "--eval.max_length=6"
ASK = """
import json, sys
from gradio_client import Client, handle_file
given = handle_file(sys.argv[2]) if len(sys.argv) > 2 else None
try:
    told = Client(sys.argv[1], verbose=False).predict(given, api_name="/transcribe")
except Exception as error:
    told = str(error)
print(json.dumps(told))
"""
gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="the extra page is not installed")

pytestmark = pytest.mark.usefixtures("one_thread")


def start(model: Path, port: int) -> subprocess.Popen[str]:
    """Start the page's server in a process of its own."""
    command = [sys.executable, "-m", "eval", "try", str(model), str(model), f"--port={port}", SHORT]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


@pytest.fixture(scope="module")
def url(blank_model: Path) -> Iterator[str]:
    """Return the address of the running page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = start(blank_model, port)
    for _ in range(600):
        with socket.socket() as probe:
            if server.poll() is not None or probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    server.kill()
    server.communicate()


def ask(url: str, *audio: Path) -> object:
    """Return the page's answer to a file, or to no file."""
    command = [sys.executable, "-c", ASK, url, *map(str, audio)]
    return json.loads(subprocess.check_output(command, text=True).splitlines()[-1])


@gradio
def test_both_models_transcribe_a_clip(
    url: str, blank_model: Path, tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    clip = write_clip(tmp_path / "a.wav", 1.0)
    config = parse_dataclass(TryCommand, [str(blank_model), str(blank_model), SHORT]).eval
    text = transcribe_file(load_transcriber(str(blank_model), config, "no"), str(clip), None)
    assert ask(url, clip) == [text, text]


@gradio
def test_invalid_audio_is_reported_and_the_page_keeps_working(
    url: str, tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    assert "unreadable" in str(ask(url, bad))
    assert "record something, or drop a file" in str(ask(url))
    assert isinstance(ask(url, write_clip(tmp_path / "a.wav", 1.0)), list)


@gradio
def test_a_port_in_use_is_reported(blank_model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = start(blank_model, port)
        _, told = server.communicate(timeout=120)
    assert server.returncode == 2
    assert told.splitlines()[-1] == f"error: port {port} is taken: set another with --port"
    assert "Traceback" not in told


def test_without_gradio_the_error_names_the_extra(
    blank_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    command = parse_dataclass(TryCommand, [str(blank_model), str(blank_model)])
    with pytest.raises(InputError, match=r'pip install "whisper-loop\[page\]"'):
        build_page(command)
