"""LoRA: only adapters are trained, they resume exactly, and a stock model is exported."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import WhisperForConditionalGeneration

from data.config import DataConfig
from data.corpora import read
from data.dataloader import BatchPreparer, eval_batches
from data.errors import InputError
from data.log_mel import N_FRAMES
from eval.config import EvalConfig
from eval.generate import encode, transcribe
from eval.half_precision import remove_adapters
from eval.whisper import Whisper, load_whisper
from tests.interrupted import interrupted
from trainer.checkpoint.fixed_knobs import training_knobs
from trainer.lora import merge_adapters
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig
from trainer.publish.export import export, restore

pytest.importorskip("peft", reason="the extra lora is not installed")

ALL = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
FACTS = {"base_model": "x", "languages": ["en"], "clips": 1, "hours": 1.0, "step": 1, "error": None}
LORA = ("--model.lora_rank=4", "--model.lora_dropout=0.1")
HARD = (*LORA, "--data.update_clips=16")
Losses = Callable[[Path], dict[int, str]]


def adapted(model: Path, **knobs: Any) -> tuple[Whisper, nn.Module]:
    """Return a Whisper with adapters that have learnt something."""
    whisper = load_whisper(str(model))
    module = prepare_training(whisper, ModelConfig(lora_rank=4, **knobs)).eval()
    torch.manual_seed(1)
    for name, weight in whisper.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    return whisper, module


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def transcripts(whisper: Whisper, corpus: Path) -> list[str]:
    """Return the hypotheses of a model for some clips."""
    rows = list(read(DataConfig(corpus=(str(corpus),)), "test"))
    stages, group = BatchPreparer(whisper.labels(), whisper.n_mels), list(range(len(rows)))
    (batch,) = eval_batches(rows, DataConfig(workers=0), stages, [group])
    results = transcribe(whisper, batch, EvalConfig(max_length=24), encode(whisper, batch))
    return [h.text for h in results]


def batch() -> tuple[torch.Tensor, ...]:
    """Return features of two clips of 2 s, decoder inputs and labels."""
    torch.manual_seed(0)
    ids = torch.randint(0, 200, (2, 5))
    return torch.randn(2, 80, 208), ids, ids.roll(-1)


def test_fresh_adapters_change_nothing_and_are_all_that_is_trained(blank_model: Path) -> None:
    plain = prepare_training(load_whisper(str(blank_model)), ModelConfig()).eval()
    module = prepare_training(load_whisper(str(blank_model)), ModelConfig(lora_rank=2)).eval()
    assert torch.equal(plain(*batch()), module(*batch()))
    assert all(".lora_" in name for name in trained(module))
    layers = 3 * 2  # attentions of an encoder's and a decoder's layer; queries and values
    assert sum(p.numel() for p in trained(module).values()) == layers * 2 * (32 + 32)
    again = prepare_training(load_whisper(str(blank_model)), ModelConfig(lora_rank=2))
    for name, weight in trained(module).items():  # drawn the same at every start
        assert torch.equal(weight, trained(again)[name])


def test_drawing_adapters_leaves_chance_as_it_was(blank_model: Path) -> None:
    whisper = load_whisper(str(blank_model))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    prepare_training(whisper, ModelConfig(lora_rank=2, silence_states=False))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("frames", [208, N_FRAMES])  # with the states of silence, and without
def test_gradients_reach_every_adapter_and_nothing_else(blank_model: Path, frames: int) -> None:
    for knobs in ({}, {"gradient_checkpointing": True}):
        _, module = adapted(blank_model, lora_modules=ALL, **knobs)
        _, ids, labels = batch()
        module.train()(torch.randn(2, 80, frames), ids, labels).sum().backward()
        for name, weight in module.named_parameters():
            assert (weight.grad is not None) == (".lora_" in name), name
            assert weight.grad is None or weight.grad.any(), name


@pytest.mark.parametrize(
    "knobs", [{"freeze_encoder": True}, {"freeze": ("model.encoder",)}], ids=["knob", "name"]
)
def test_what_is_frozen_gets_no_adapter(blank_model: Path, knobs: Any) -> None:
    _, module = adapted(blank_model, **knobs)
    assert module.freeze_encoder
    assert all(name.startswith("whisper.model.decoder.") for name in trained(module))


def test_a_merged_model_is_stock_and_says_the_same(
    blank_model: Path, tone_corpus: Path, tmp_path: Path
) -> None:
    whisper, module = adapted(blank_model, lora_modules=ALL)
    texts = transcripts(whisper, tone_corpus)
    assert texts != transcripts(load_whisper(str(blank_model)), tone_corpus)
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    export(whisper, tmp_path / "out", FACTS)
    for name, weight in module.state_dict().items():  # what trains on is as it was, bit for bit
        assert torch.equal(weight, before[name]), name
    folders = (blank_model, tmp_path / "out")
    base, out = (load_file(folder / "model.safetensors") for folder in folders)
    assert base.keys() == out.keys()
    base, out = (json.loads((folder / "config.json").read_text()) for folder in folders)
    assert base == out
    assert transcripts(load_whisper(str(tmp_path / "out")), tone_corpus) == texts
    restore(whisper, tmp_path / "out")  # into the model in hand, as a run does at its end
    assert transcripts(whisper, tone_corpus) == texts
    assert not any(".lora_" in name for name in whisper.model.state_dict())


def test_a_merged_models_head_is_its_embedding(blank_model: Path) -> None:
    whisper, _ = adapted(blank_model)
    stock = merge_adapters(whisper.model)
    assert stock.proj_out.weight is stock.model.decoder.embed_tokens.weight
    assert type(stock) is WhisperForConditionalGeneration
    assert stock.generation_config == whisper.model.generation_config


def test_a_model_without_adapters_is_left_alone(blank_model: Path) -> None:
    whisper = load_whisper(str(blank_model))
    names = list(whisper.model.state_dict())
    assert merge_adapters(whisper.model) is whisper.model
    remove_adapters(whisper.model)
    assert list(whisper.model.state_dict()) == names


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        (
            {"lora_modules": ("q_proj", "qproj")},
            "'qproj' matches no linear .* fc1, fc2, k_proj",
        ),
        ({"lora_modules": ("proj_out",)}, "'proj_out' matches no linear layer"),
        ({"lora_modules": ("encoder.*.fc1",), "freeze_encoder": True}, "matches no linear layer"),
    ],
)
def test_a_layer_that_is_not_there_is_named(blank_model: Path, knobs: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        adapted(blank_model, **knobs)


@pytest.mark.parametrize(
    ("key", "value"), [("lora_rank", 0), ("lora_alpha", 0.0), ("lora_dropout", 1.0)]
)
def test_values_that_could_not_work_are_refused(key: str, value: float) -> None:
    with pytest.raises(InputError, match=f"model.{key}"):
        ModelConfig(**{key: value})


def test_without_the_extra_a_sentence_says_what_to_install(
    blank_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r'needs peft: pip install "whisper-loop\[lora\]"'):
        prepare_training(load_whisper(str(blank_model)), ModelConfig(lora_rank=4))


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_six_updates_equal_three_and_three(
    wide_trainer: Any, tmp_path: Path, losses: Losses, processes: int, precision: str
) -> None:
    whole, arguments = tmp_path / "whole", (*HARD, f"--precision={precision}")
    wide_trainer(whole, *arguments, processes=processes)
    cut = interrupted(whole, tmp_path / "cut", after=3)
    wide_trainer(cut, *arguments, "--resume=auto", processes=processes)
    assert losses(cut) == losses(whole)
    weights, again = (load_file(run / "model" / "model.safetensors") for run in (whole, cut))
    assert all((weights[name] == again[name]).all() for name in weights)
    base = load_file(wide_trainer.model / "model.safetensors")
    changed = {name for name in base if (base[name] != weights[name]).any()}
    assert changed
    assert all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in changed)
    saved = load_file(whole / "checkpoints" / "step-00000006" / "model.safetensors")
    frozen = [name for name in saved if ".lora_" not in name and name.startswith("whisper.")]
    for name in frozen:
        stock = name.removeprefix("whisper.").replace(".base_layer.", ".")
        assert torch.equal(saved[name], base[stock]), name
    for name in changed:  # the export adds the product in float32 to the original weights
        layer = f"whisper.{name.removesuffix('.weight')}"
        down, up = (saved[f"{layer}.lora_{key}.default.weight"] for key in "AB")
        assert torch.equal(weights[name], base[name] + up @ down * 2.0), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_with_adapters_is_scored_chosen_and_exported(
    trainer: Any, tmp_path: Path, precision: str
) -> None:
    run = tmp_path / "run"
    extra = (
        f"--precision={precision}",
        "--data.dev_split=dev",
        "--data.test_split=test",
        "--loop.max_steps=2",
    )
    done = trainer(run, *LORA, *extra, "--loop.eval_every=2", "--eval.max_length=4")
    assert "M of them trained)" in done.output
    step = json.loads((run / "model" / "whisper_loop.json").read_text())["step"]
    assert (run / "eval" / f"step-{step:08d}" / "test" / "scores.json").is_file()
    WhisperForConditionalGeneration.from_pretrained(run / "model")


def test_a_resume_changes_neither_rank_nor_what_is_frozen_and_knows_older_checkpoints() -> None:
    def shape(**knobs: Any) -> dict[str, Any]:
        return training_knobs(ModelConfig(**knobs), OptimConfig(), DataConfig(), 7)

    assert not any("lora" in key or key in ("model.freeze", "optim.name") for key in shape())
    kinds = ({}, {"lora_rank": 4}, {"lora_rank": 8}, {"freeze": ("proj_out",)})
    told = [shape(**knobs) for knobs in kinds]
    assert all(told[i] != told[j] for i in range(4) for j in range(i))
    assert told[3]["model.freeze"] == ["proj_out"]
