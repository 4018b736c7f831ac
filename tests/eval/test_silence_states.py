"""Silence states make attention at true length equal to that of padded clips."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from data.config import DataConfig
from data.log_mel import N_FRAMES, pad_features
from data.manifest import build_manifest
from eval import silence_states as silence
from eval.config import EvalConfig
from eval.evaluate import Evaluator
from eval.silence_states import (
    FIRST,
    STRIDE,
    AttentionWithSilence,
    compute_silence_states,
    set_silence_states,
)
from eval.whisper import Whisper, load_whisper
from trainer.model import ModelConfig, prepare_training


@pytest.fixture
def whisper(blank_model: Path) -> Whisper:
    """Return a small model with attention that supports silence states."""
    loaded = load_whisper(str(blank_model))
    loaded.model.eval()
    return loaded


def features(frames: int, rows: int = 2) -> Tensor:
    """Return features of noise."""
    return torch.randn(rows, 80, frames, generator=torch.Generator().manual_seed(1))


def encoded(whisper: Whisper, heard: Tensor) -> Tensor:
    """Return the encoder's output."""
    with torch.inference_mode():
        states: Tensor = whisper.model.model.encoder(heard).last_hidden_state
    return states


def test_silence_states_hold_every_eighth_position_of_all_layers_and_the_output(
    whisper: Whisper,
) -> None:
    states = compute_silence_states(whisper.model)
    config = whisper.model.config
    assert states.shape == (config.encoder_layers + 1, -(-1500 // STRIDE), config.d_model)
    assert not states.requires_grad
    assert torch.equal(
        states, compute_silence_states(whisper.model)
    )  # the reference is always the same
    heard = silence.reference_features(80)
    assert torch.equal(states[-1], encoded(whisper, heard)[0, ::STRIDE])


def test_padded_audio_is_encoded_as_by_stock_attention(whisper: Whisper) -> None:
    padded = pad_features(features(200))
    stock = encoded(whisper, padded)
    set_silence_states(whisper.model, compute_silence_states(whisper.model))
    assert torch.equal(encoded(whisper, padded), stock)


def test_a_silence_state_has_the_attention_weight_of_its_positions(
    whisper: Whisper,
) -> None:
    """Attention over STRIDE copies of each state, written out, is what the bias makes of one."""
    attention = whisper.model.model.encoder.layers[0].self_attn
    assert isinstance(attention, AttentionWithSilence)
    d = whisper.model.config.d_model
    own, shared = torch.randn(2, 100, d), torch.randn(1, 188, d)
    attention.silence = shared
    with torch.inference_mode():
        found, _ = attention(own)
        copies = shared[:, max(FIRST, -(-100 // STRIDE)) :].repeat_interleave(STRIDE, dim=1)
        source = torch.cat([own, copies.expand(2, -1, -1)], dim=1)
        heads = attention._heads
        heard = nn.functional.scaled_dot_product_attention(
            heads(attention.q_proj(own) * attention.scaling),
            heads(attention.k_proj(source)),
            heads(attention.v_proj(source)),
            scale=1.0,
        )
        expected = attention.out_proj(heard.transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_no_clip_attends_to_the_noise_of_the_reference(whisper: Whisper) -> None:
    states = compute_silence_states(whisper.model)
    set_silence_states(whisper.model, states)
    short = encoded(whisper, features(32))
    changed = states.clone()
    changed[:, : silence.REFERENCE_POSITIONS // STRIDE] += 1.0
    set_silence_states(whisper.model, changed)
    assert torch.equal(encoded(whisper, features(32)), short)


def test_generate_and_training_use_the_same_attention(whisper: Whisper) -> None:
    set_silence_states(whisper.model, compute_silence_states(whisper.model))
    heard = whisper.model.model.encoder(features(200))
    ids = torch.tensor([whisper.labels().prefix("en")] * 2)
    with torch.inference_mode():
        out = whisper.model.generate(
            encoder_outputs=heard,
            decoder_input_ids=ids,
            max_new_tokens=6,
            language=["en"] * 2,
            task="transcribe",
            num_beams=1,
            do_sample=False,
            min_new_tokens=6,
        )
        states = heard.last_hidden_state
        for _ in range(4):  # the same, without a cache
            decoded = whisper.model.model.decoder(
                input_ids=ids, encoder_hidden_states=states, use_cache=False
            ).last_hidden_state
            logits = whisper.model.proj_out(decoded[:, -1])
            ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True)], dim=1)
    start = whisper.labels().prefix("en")
    assert ids.shape == (2, len(start) + 4)
    assert len(out[0]) > 0


def test_gradients_reach_the_projections_but_not_the_silence_states(whisper: Whisper) -> None:
    module = prepare_training(whisper, ModelConfig())
    ids = torch.tensor([whisper.labels().encode("one", "en")] * 2)
    assert module.silence is not None
    before = module.silence.clone()
    module(features(200), ids[:, :-1], ids[:, 1:]).sum().backward()
    assert torch.equal(module.silence, before)
    assert module.silence.grad is None
    assert all(p.grad is not None for p in whisper.model.model.encoder.layers.parameters())


def test_recomputed_silence_states_follow_the_weights(whisper: Whisper) -> None:
    module = prepare_training(whisper, ModelConfig())
    assert module.silence is not None
    before = module.silence.clone()
    with torch.no_grad():
        whisper.model.model.encoder.layer_norm.bias += 1.0
    module.update_silence_states(module.whisper)
    assert torch.allclose(module.silence[-1], before[-1] + 1.0, atol=1e-5)
    assert torch.equal(module.silence[0], before[0])


def test_without_silence_states_short_audio_is_encoded_alone(whisper: Whisper) -> None:
    alone = encoded(whisper, features(200))
    module = prepare_training(whisper, ModelConfig(silence_states=False))
    module.update_silence_states(module.whisper)
    assert "silence" not in module.state_dict()
    ids = torch.tensor([whisper.labels().encode("one", "en")] * 2)
    set_silence_states(
        whisper.model, compute_silence_states(whisper.model)
    )  # as an evaluation at true length does
    assert not torch.equal(encoded(whisper, features(200)), alone)
    module(features(200), ids[:, :-1], ids[:, 1:])
    assert torch.equal(encoded(whisper, features(200)), alone)


def test_silence_states_are_not_in_the_saved_model(whisper: Whisper, tmp_path: Path) -> None:
    names = set(whisper.model.state_dict())
    module = prepare_training(whisper, ModelConfig())
    ids = torch.tensor([whisper.labels().encode("one", "en")] * 2)
    module(features(N_FRAMES // 10), ids[:, :-1], ids[:, 1:])
    assert set(whisper.model.state_dict()) == names
    assert set(module.state_dict()) == {f"whisper.{name}" for name in names} | {"silence"}


def loss_of(folder: Path, corpus: Path, *, silence: bool) -> float:
    """Return what dev's references cost a model at true length, in nats a token."""
    AcceleratorState._reset_state(reset_partial_state=True)
    whisper = load_whisper(str(folder))
    data = DataConfig(corpus=(str(corpus),), workers=0)
    evaluator = Evaluator(
        accelerator=Accelerator(cpu=True),
        whisper=whisper,
        data=data,
        config=EvalConfig(max_length=8),
        silence=silence,
    )
    dev = build_manifest(data, whisper.labels(), None, show=False)[0].dev
    _, hypotheses = evaluator.evaluate(dev, "dev", true_length=True, with_reference_loss=True)
    nll, tokens = map(
        sum, zip(*(h.reference_loss for h in hypotheses if h.reference_loss), strict=True)
    )
    return float(nll / tokens)


def test_an_evaluation_uses_silence_states_only_if_training_did(
    trainer: Any, tone_corpus: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    knobs = ("--data.dev_split=dev", "--eval.max_length=8", "--loop.max_steps=2")
    trainer(run, *knobs, "--model.silence_states=false", "--eval.pad=bucket", "--optim.lr=1e-2")
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    told = [row["dev/loss"] for row in rows if row["step"] == 2 and "dev/loss" in row]
    alone, with_silence = (
        loss_of(run / "model", tone_corpus, silence=silence) for silence in (False, True)
    )
    assert told == [pytest.approx(alone, abs=1e-5)]
    assert abs(with_silence - alone) > 1e-3


@pytest.mark.realdata
@pytest.mark.slow
def test_pretrained_whisper_transcribes_short_clips_like_padded_ones(tmp_path: Path) -> None:
    """On real speech with real weights: cut to its length a clip loses most of its words."""
    real = Path(os.environ["WHISPER_LOOP_REALDATA"])
    model, out = tmp_path / "tiny.en", tmp_path / "hush.json"
    subprocess.run([sys.executable, real / "make_whisper.py", "tiny.en", model], check=True)
    here = Path(__file__).parents[1] / "benchmark" / "hush.py"
    arguments = [f"--model={model}", f"--corpus={real / 'prompts' / 'en'}", f"--out={out}"]
    subprocess.run([sys.executable, here, *arguments], check=True)
    told = json.loads(out.read_text())["error"]
    assert told["0 s"] > told["30 s"] + 0.3
    assert told["0 s, states of silence"] < told["30 s"] + 0.05
