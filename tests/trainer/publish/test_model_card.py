"""The model card contains the facts of the run's files, and escapes their texts."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from data.atomic_files import write_json, write_jsonl, write_text
from data.lazy_manifest import ManifestColumns
from data.utterance import Utterance
from trainer.config import Config
from trainer.publish.card_facts import _corpora
from trainer.publish.card_metadata import yaml_block
from trainer.publish.export import PublishConfig
from trainer.publish.model_card import card, escape

FACTS: dict[str, Any] = {
    "step": 500,
    "updates": 800,
    "base_model": "openai/whisper-small",
    "languages": ["no", "jw"],
    "clips": 1234,
    "hours": 5.6789,
    "corpora": [{"name": "zh/a_b|c", "hub": False, "clips": 1234, "hours": 5.6789}],
    "error": 0.123,
    "seconds": 5000.0,
    "since": 300,
    "shares": {"training_share": 0.75, "evaluation_share": 0.25},
}
METERS = {"clips": 10, "loops": 2, "fast": 0, "empty": 1, "truncated": 0}


def figure(rate: float) -> dict[str, Any]:
    """Return a metric as scores.json has it."""
    edits = {"substitutions": 1, "deletions": 0, "insertions": 0, "units": 100}
    return {"rate": rate, **edits, "interval": [rate / 2, rate * 2], "bootstrap": "speakers"}


def scores(rate: float, *, spoken: int, **more: Any) -> dict[str, Any]:
    """Return a scores.json."""
    group = {"clips": 10, "empty_references": 0, "metric": "CER", "unit": "character"}
    group |= {"normalizer": "unicode (1.0)", "cer": figure(rate), "cer_ortho": figure(2 * rate)}
    noise = {"clips": 12, "spoken": spoken, "characters": 9, "texts": {"hum": "<b>thanks</b>"}}
    meters = {**METERS, "noise": noise}
    return {"languages": {"no": group}, "long": {}, "corpora": {}, "meters": meters, **more}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run's folder with all files that the card is made from."""
    config = Config(publish=PublishConfig(repo="ann/digits", licence="My Licence"))
    write_text(tmp_path / "config.yaml", config.to_yaml())
    known = {"device": "NVIDIA H100", "processes": 2, "threads": 4, "precision": "bf16"}
    known |= {"commit": "abc", "data": "f00d", "revisions": {}, "python": "3.12", "packages": {}}
    write_json(tmp_path / "environment.json", known)
    drop = {"split": "train", "id": "a", "audio": "a", "detail": ""}
    reasons = ["too long", "too long", "speaker of dev or test"]
    write_jsonl(tmp_path / "drops.jsonl", [drop | {"reason": reason} for reason in reasons])
    for step, rate, spoken in ((0, 0.5, 1), (500, 0.25, 3)):
        at = tmp_path / "eval" / f"step-{step:08d}"
        write_json(at / "test" / "scores.json", scores(rate, spoken=spoken, true_length=True))
    return tmp_path


def test_the_card_contains_the_facts_of_the_runs_files(run: Path) -> None:
    told = card(run, FACTS)
    before, after = "50.00 % (25.0 to 100.0)", "25.00 % (12.5 to 50.0)"
    assert f"| no | 10 | CER | {before} | **{after}** | 50.00 % |" in told
    assert "- no: characters, unicode (1.0)" in told
    assert "- 2 of 10 texts repeat a phrase (decoding loop) (before: 2)." in told
    assert "- It hallucinates text for 3 of 12 clips of silence and noise" in told
    assert "(before: 1)" in told
    assert "the error rate there was not measured" in told
    assert "| zh/a\\_b\\|c | 1,234 | 5.68 |" in told
    assert "| train | too long | 2 |" in told
    assert "Licence of this model: My Licence." in told
    assert "in dev or test were removed from the training data: 1 × speaker of dev" in told
    assert "Sentences and speakers were not compared" in told
    assert "| hardware | NVIDIA H100, 4 CPU threads in each of 2 processes |" in told
    assert "| time | 83 min for updates 300 to 800 of the last start" in told
    assert "| energy | not measured |" in told
    assert "| optim.lr | 1e-05 |" in told
    assert 'model="ann/digits"' in told


def test_scores_of_padded_clips_need_no_note_on_stock_pipelines(run: Path) -> None:
    for step in (0, 500):
        path = run / "eval" / f"step-{step:08d}" / "test" / "scores.json"
        told = json.loads(path.read_text(encoding="utf-8"))
        write_json(path, told | {"true_length": False})
    assert "Stock pipelines" not in card(run, FACTS)


def test_its_metadata_is_what_the_hub_reads(run: Path) -> None:
    loaded = ModelCard(card(run, FACTS))
    data = loaded.data
    assert data.language == ["jv", "no"]  # not false, as YAML 1.1 reads a bare no
    assert (data.license, data.license_name) == ("other", "my-licence")
    assert data.base_model == "openai/whisper-small"
    assert data.metrics == ["cer"]
    assert data.datasets is None  # a folder is none
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("cer", 25.0)
    assert result.metric_args == {"normalizer": "unicode (1.0)", "interval": "12.50 – 50.00"}
    assert (result.dataset_config, result.dataset_split) == ("no", "test")
    index = yaml.safe_load(loaded.content.split("---\n")[1])["model-index"]
    assert model_index_to_eval_results(index) == ("digits", data.eval_results)


@pytest.mark.parametrize(
    ("licence", "told"),
    [
        ("cc-by-4.0", {"license": "cc-by-4.0"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("!", {"license": "other", "license_name": "other"}),
        (None, {}),
    ],
)
def test_a_licence_is_one_that_the_hub_knows_or_other(
    licence: str | None, told: dict[str, str]
) -> None:
    found = yaml.safe_load(yaml_block(FACTS, {}, split="test", repo=None, licence=licence))
    assert {k: v for k, v in found.items() if k.startswith("license")} == told


def test_missing_facts_are_stated_as_unknown(tmp_path: Path) -> None:
    least = {k: FACTS[k] for k in ("step", "base_model", "languages", "hours")}
    told = card(tmp_path, least | {"clips": None, "error": None})
    assert "on 5.68 hours of a stream." in told
    assert "Error on dev: not measured." in told
    assert "Not measured yet" in told
    assert "Licence of this model: not stated." in told
    assert "Nothing was left out." in told
    assert "no split was held out" in told
    assert 'model="THIS_FOLDER"' in told
    data = ModelCard(told).data
    assert data.eval_results is None
    assert data.get("license") is None


def test_without_a_test_split_dev_scores_are_called_optimistic(run: Path) -> None:
    for path in (run / "eval").glob("step-*"):
        (path / "test").rename(path / "dev")
    told = card(run, FACTS)
    assert "On the dev split, before and after" in told
    assert "The model was selected by its error on these clips" in told
    for path in (run / "eval").glob("step-*"):
        (path / "dev").rename(path / "forgetting")
    assert "Forgetting, on clips of a language or task" in card(run, FACTS)


def test_texts_are_escaped_for_markdown() -> None:
    assert escape("a|b\n# c") == "a\\|b \\# c"
    assert escape("<img src=x> & [a](b) `c` *d*") == (
        "&lt;img src=x&gt; &amp; \\[a\\](b) \\`c\\` \\*d\\*"
    )


@pytest.mark.parametrize("name", ["a: b", "- x", "'", "---\nlicense: mit\n---", "#", "{{ 1 + 1 }}"])
def test_texts_are_escaped_for_yaml_and_templates(run: Path, name: str) -> None:
    corpora = [{"name": name, "hub": True, "clips": 1, "hours": 1.0}]
    told = card(run, FACTS | {"corpora": corpora}, licence=name)
    data = ModelCard(told).data
    assert data.datasets == [name]
    assert data.license == "other"


def test_the_card_contains_no_local_path(tmp_path: Path) -> None:
    folders = [tmp_path / "secret" / each for each in ("one/zh", "two/zh")]
    rows = []
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        rows += [Utterance(id=f"{number}", audio="", text="", seconds=36.0, corpus=str(folder))]
    rows += [Utterance(id="h", audio="", text="", seconds=72.0, corpus="google/fleurs")]
    assert _corpora(ManifestColumns.from_utterances(rows)) == [
        {"name": "one/zh", "hub": False, "clips": 1, "hours": 0.01},
        {"name": "two/zh", "hub": False, "clips": 1, "hours": 0.01},
        {"name": "google/fleurs", "hub": True, "clips": 1, "hours": 0.02},
    ]


def test_a_run_writes_a_card_with_its_final_scores(trainer: Any, tmp_path: Path) -> None:
    splits = ["--data.dev_split=dev", "--data.test_split=test", "--eval.max_length=4"]
    trainer(tmp_path / "run", "--loop.max_steps=1", *splits)
    told = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "On the test split, before and after" in told
    assert str(tmp_path) not in told
    facts = json.loads((tmp_path / "run" / "model" / "whisper_loop.json").read_text())
    assert str(tmp_path) not in json.dumps(facts)
    assert told == card(tmp_path / "run", facts)


def test_dev_is_scored_at_true_length_as_in_training_and_test_padded_as_in_stock_pipelines(
    trainer: Any, tmp_path: Path
) -> None:
    splits = ["--data.dev_split=dev", "--data.test_split=test", "--eval.max_length=4"]
    trainer(tmp_path / "run", "--loop.max_steps=1", *splits)
    folder = tmp_path / "run" / "eval"
    short = {
        (int(at.parent.parent.name[5:]), at.parent.name): json.loads(at.read_text())["true_length"]
        for at in folder.glob("step-*/*/scores.json")
    }
    assert short == {(0, "dev"): True, (0, "test"): False, (1, "dev"): True, (1, "test"): False}
