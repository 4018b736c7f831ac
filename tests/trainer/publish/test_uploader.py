"""Uploads to the Hub are complete, and errors never stop training or lose the model."""

import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from data.atomic_files import write_json, write_text
from data.errors import InputError, plain_errors
from eval.whisper import load_whisper
from tests.fake_hub import CUT, TOKEN, FakeHub, running
from trainer.checkpoint.rotation import CheckpointConfig, CheckpointRotation, verified
from trainer.commands.publish import publish_run
from trainer.config import Config, parse
from trainer.publish.export import PublishConfig, export
from trainer.publish.hub_repo import Hub
from trainer.publish.uploader import LAST, UNSENT, HubUploader

# huggingface_hub hands bytes to its HTTP library in a way that is going
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

FACTS: dict[str, Any] = {
    "step": 5,
    "base_model": "openai/whisper-small",
    "languages": ["en"],
    "clips": 10,
    "hours": 0.5,
    "error": 0.1,
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Return a server that stands in for the Hub, with ann logged in."""
    with running() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def run(tmp_path: Path, blank_model: Path) -> Path:
    """Return the folder of a finished run."""
    folder = tmp_path / "run"
    write_text(folder / "config.yaml", Config().to_yaml())
    export(load_whisper(str(blank_model)), folder / "model", FACTS)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files in a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def uploader(run: Path, **knobs: Any) -> tuple[HubUploader, list[str]]:
    """Return a started uploader, and the list of its messages."""
    said: list[str] = []
    knobs = {"repo": "ann/digits", "wait_seconds": 20.0, **knobs}
    started = HubUploader(run, PublishConfig(**knobs), said.append)
    started.start()
    return started, said


def test_a_model_arrives_byte_for_byte_as_one_commit_and_is_private(
    hub: FakeHub, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_run([str(run), "--publish.repo=digits"])
    assert f"sent the model of update 5: {hub.url}/ann/digits" in capsys.readouterr().out
    sent, here = hub.repos["ann/digits"], files(run / "model")
    assert sent.pop("README.md").decode().count('model="USER/digits"') == 1
    del here["README.md"]
    assert sent == here
    assert hub.commits == ["The model of update 5"]
    assert not hub.public
    publish_run([str(run), "--publish.repo=digits"])  # it is there by now, and ours


def test_a_model_replaced_during_the_upload_arrives_complete(
    hub: FakeHub, run: Path, blank_model: Path
) -> None:
    sender, said = uploader(run)
    hub.hold.clear()
    sender.offer_model()
    whisper = load_whisper(str(blank_model))
    for step in (6, 7):
        export(whisper, run / "model", FACTS | {"step": step})
        sender.offer_model()
    hub.hold.set()
    sender.close()
    assert hub.repos["ann/digits"] == files(run / "model")
    assert hub.commits[-1] == "The model of update 7"
    assert said[-1] == f"published the model of update 7: {hub.url}/ann/digits"
    assert {path.name for path in run.iterdir()} == {"config.yaml", "model"}


def test_the_newest_checkpoint_is_uploaded_on_request(hub: FakeHub, run: Path) -> None:
    rotation = CheckpointRotation(run / "checkpoints", CheckpointConfig())
    for step in (3, 4):
        write_text(rotation.pending_path(step) / "model.safetensors", f"weights of {step}")
        rotation.commit(
            rotation.pending_path(step), {"state": {"step": step, "best_step": 0}, "shape": {}}
        )
    uploader(run, checkpoints=True)[0].close()
    got = run / "got"
    for name, content in hub.repos["ann/digits"].items():
        write_text(got / name.removeprefix(f"{LAST}/"), content.decode())
    assert json.loads((verified(got) / "state.json").read_text())["state"]["step"] == 4
    knobs = ["--publish.repo=ann/later", "--publish.checkpoints=true"]
    publish_run([str(run), *knobs])
    assert hub.repos["ann/later"][f"{LAST}/model.safetensors"] == b"weights of 4"


@pytest.mark.parametrize("path", ["preupload", "/lfs/", "objects/batch"])
@pytest.mark.parametrize("fault", [500, CUT])
def test_temporary_faults_are_retried(hub: FakeHub, run: Path, path: str, fault: int) -> None:
    hub.faults = [(path, fault)]
    publish_run([str(run), "--publish.repo=digits"])
    assert not hub.faults
    assert hub.commits == ["The model of update 5"]


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        ([("whoami", 401)], "does not accept your token: run `hf auth login`, or set another"),
        ([("whoami", 500)], "answered with status 500: try again later"),
        ([("create", 500)], "answered with status 500: try again later"),
        ([("create", CUT)], "could not be reached, or the connection was lost"),
        ([("preupload", 404)], "has no such repository, or your token has no access to it"),
        ([("commit", 403)], "has no write access: use one that has"),
        ([("commit", 500)], "answered with status 500: try again later"),
        ([("commit", CUT)], "could not be reached, or the connection was lost"),
        ([("commit", 413)], "answered with status 413: as told"),
        ([("/lfs/", CUT)] * 6, "could not be reached, or the connection was lost"),
    ],
)
def test_upload_errors_are_input_errors(
    hub: FakeHub, run: Path, faults: list[tuple[str, int]], sentence: str
) -> None:
    hub.faults, before = list(faults), files(run)
    with pytest.raises(InputError, match=sentence):
        publish_run([str(run), "--publish.repo=ann/digits"])
    assert not hub.commits
    assert files(run) == before


def test_a_card_rejected_by_the_hub_is_an_input_error(hub: FakeHub, run: Path) -> None:
    write_text(run / "model" / "README.md", "---\nbase_model: here\n---\n")
    with pytest.raises(InputError, match=r"rejected it: .*base_model must be a repository"):
        publish_run([str(run), "--publish.repo=digits"])


def test_a_repository_of_another_user_is_rejected(hub: FakeHub, run: Path) -> None:
    with pytest.raises(
        InputError, match="cannot be created with your token: use a name of your own"
    ):
        publish_run([str(run), "--publish.repo=bob/digits"])
    hub.repos["bob/digits"] = {}
    with pytest.raises(InputError, match="has no write access"):
        publish_run([str(run), "--publish.repo=bob/digits"])
    assert hub.repos["bob/digits"] == {}
    hub.faults = [("create", 409)]
    with pytest.raises(InputError, match="belongs to somebody else"):
        publish_run([str(run), "--publish.repo=eve/digits"])
    hub.faults = [("create", 409), ("api/models", 502)]
    with pytest.raises(InputError, match="status 502"):
        publish_run([str(run), "--publish.repo=eve/digits"])


def test_a_public_repository_needs_private_false(hub: FakeHub, run: Path) -> None:
    publish_run([str(run), "--publish.repo=open", "--publish.private=false"])
    assert hub.public == {"ann/open"}
    with pytest.raises(InputError, match=r"it exists and is public: .* set publish\.private=false"):
        publish_run([str(run), "--publish.repo=open"])
    assert len(hub.commits) == 1


def test_without_network_or_token_no_request_is_made(
    hub: FakeHub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match="HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it"
    ):
        Hub("digits", private=True).ensure_exists()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(InputError, match=r"no token .* run `hf auth login`, or set HF_TOKEN"):
        Hub("digits", private=True).ensure_exists()
    assert not hub.asked
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="could not be reached, or the connection was lost"):
        Hub("digits", private=True).ensure_exists()


def test_failed_uploads_are_reported_saved_and_sent_later(
    hub: FakeHub, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults = [("whoami", 401)] * 3
    sender, said = uploader(run)
    sender.offer_model()
    sender.close()
    sentence = "publish.repo=ann/digits: the Hub does not accept your token"
    assert said[0].startswith(f"warning: upload to the Hub failed: {sentence}")
    assert said[-1].startswith(
        f"WARNING: not uploaded to the Hub: the model of update 5: {sentence}"
    )
    assert said[-1].endswith(f"upload it with python -m trainer publish {run}")
    assert len([line for line in said if sentence in line]) == 2  # not at every try
    kept = json.loads((run / UNSENT).read_text())
    assert kept["unsent"] == ["the model of update 5"]
    assert kept["reason"].startswith(sentence)
    hub.faults.clear()
    publish_run([str(run), "--publish.repo=ann/digits"])
    assert not (run / UNSENT).exists()
    assert hub.commits == ["The model of update 5"]


def test_the_next_start_sends_pending_uploads(hub: FakeHub, run: Path) -> None:
    write_json(run / UNSENT, {"repo": "ann/digits", "unsent": [], "reason": ""})
    uploader(run)[0].close()
    assert hub.commits == ["The model of update 5"]
    assert not (run / UNSENT).exists()


def test_a_hub_that_never_answers_does_not_block_the_exit(hub: FakeHub, run: Path) -> None:
    hub.hold.clear()
    sender, said = uploader(run, wait_seconds=0.2)
    sender.offer_model()
    sender.close()
    assert "not finished after 0.2 s (publish.wait_seconds)" in said[-1]
    assert (run / UNSENT).is_file()


def test_no_message_contains_the_token(
    hub: FakeHub, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def leak(*_: Any, **__: Any) -> None:
        raise ConnectionError(f"Bearer {TOKEN}")

    monkeypatch.setattr("huggingface_hub.HfApi.whoami", leak)
    sender, said = uploader(run)
    sender.offer_model()
    sender.close()
    with pytest.raises(SystemExit) as ended, plain_errors():
        publish_run([str(run), "--publish.repo=digits"])
    assert ended.value.code == 2
    told = "".join(said) + capsys.readouterr().err + (run / UNSENT).read_text()
    assert "hf_…" in told
    assert TOKEN not in told


@pytest.mark.parametrize("name", ["a b", "a/b/c", "-a", "a..b", "ann/x.git"])
def test_an_invalid_repository_name_is_rejected_before_training(name: str) -> None:
    with pytest.raises(InputError, match=r"publish\.repo=.* use NAME or USER/NAME"):
        parse([f"--publish.repo={name}"])


def test_a_negative_wait_is_rejected() -> None:
    with pytest.raises(InputError, match=r"publish\.wait_seconds must be 0 or more, got -1"):
        PublishConfig(wait_seconds=-1)


def test_a_folder_without_a_run_is_rejected(run: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, run / "model", tmp_path / "absent"):
        with pytest.raises(InputError, match="not a whisper-loop run with a model"):
            publish_run([str(folder)])
    with pytest.raises(InputError, match=r"python -m trainer publish RUN"):
        publish_run(["--publish.repo=digits"])
    with pytest.raises(InputError, match=r"name the repository with --publish\.repo=USER/NAME"):
        publish_run([str(run)])


def be_ann(url: str) -> None:
    """Make a process use a fake server instead of the Hub."""
    os.environ["HF_TOKEN"] = TOKEN
    constants.ENDPOINT, constants.HF_HUB_OFFLINE = url, False
    constants.HF_HUB_DISABLE_XET = True
    sys.modules["huggingface_hub.utils._http"].time.sleep = lambda _: None  # type: ignore[attr-defined]


def test_a_run_publishes_its_best_model_and_finishes_if_it_cannot(
    hub: FakeHub, trainer: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    knobs = ["--publish.repo=digits", "--publish.checkpoints=true", "--publish.licence=mit"]
    knobs += ["--loop.max_steps=1"]
    done = trainer(run, *knobs, sabotage=partial(be_ann, hub.url))
    assert f"published the model of update 1: {hub.url}/ann/digits" in done.output
    sent = hub.repos["ann/digits"]
    assert {k: v for k, v in sent.items() if "/" not in k} == files(run / "model")
    assert f"{LAST}/state.json" in sent
    assert b"license: mit" in sent["README.md"]
    assert not (run / UNSENT).exists()
    hub.faults = [("whoami", 500)] * 99
    done = trainer(tmp_path / "other", *knobs, sabotage=partial(be_ann, hub.url))
    assert "WARNING: not uploaded to the Hub: the model of update 1 and" in done.output
    assert json.loads((tmp_path / "other" / "status.json").read_text())["status"] == "finished"
    assert (tmp_path / "other" / UNSENT).is_file()
