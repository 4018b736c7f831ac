"""TrainingModule leaves no trace in the exported model."""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from transformers import WhisperForConditionalGeneration

from data.batch import IGNORE_INDEX, target_positions
from eval.whisper import load_whisper
from trainer.model import ModelConfig, prepare_training


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return features of two clips of 2 s, decoder inputs and labels."""
    torch.manual_seed(0)
    ids = torch.randint(0, 200, (2, 5))
    labels = torch.randint(0, 200, (2, 5))
    labels[1, 3:] = IGNORE_INDEX
    return torch.randn(2, 80, 208), ids, labels


def test_a_frozen_encoder_has_no_gradient_and_the_decoder_has(blank_model: Path) -> None:
    module = prepare_training(load_whisper(str(blank_model)), ModelConfig(freeze_encoder=True))
    module(*inputs()).sum().backward()
    for name, parameter in module.whisper.model.named_parameters():
        assert (parameter.grad is None) == name.startswith("encoder."), name


def test_checkpointed_gradients_equal_plain_ones(blank_model: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        config = ModelConfig(gradient_checkpointing=checkpointing)
        module = prepare_training(load_whisper(str(blank_model)), config).train()
        module(*inputs()).sum().backward()
        gradients.append(module.whisper.model.encoder.conv1.weight.grad)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_dropout_draws_in_training_and_not_in_the_saved_config(
    blank_model: Path, tmp_path: Path
) -> None:
    whisper = load_whisper(str(blank_model))
    module = prepare_training(whisper, ModelConfig(dropout=0.3)).train()
    batch = inputs()
    assert not torch.equal(module(*batch), module(*batch))
    whisper.model.save_pretrained(tmp_path)
    assert WhisperForConditionalGeneration.from_pretrained(tmp_path).config.dropout == 0.0


def test_a_pass_reads_no_value_that_the_device_computes(blank_model: Path) -> None:
    # a fake tensor has no values: whoever reads one, and would wait for a GPU, gets an exception
    module = prepare_training(load_whisper(str(blank_model)), ModelConfig()).train()
    # transformers 5.17 draws a number for layerdrop, on the CPU: no value of the device
    module.whisper.model.encoder.training = module.whisper.model.decoder.training = False
    features, ids, labels = inputs()
    targets = target_positions(labels)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = [mode.from_tensor(each) for each in (features, ids, labels)]
        nll = module(*fake, targets=mode.from_tensor(targets))
        assert nll.shape == targets.shape
        (nll.sum() * torch.where(torch.isfinite(nll.sum()), 1.0, torch.nan)).backward()
        with pytest.raises(DynamicOutputShapeException):
            module(*fake)


def test_a_batch_without_targets_gives_zero_and_a_gradient_of_zeros(blank_model: Path) -> None:
    module = prepare_training(load_whisper(str(blank_model)), ModelConfig())
    features, ids, labels = inputs()
    loss = module(features, ids, torch.full_like(labels, IGNORE_INDEX)).sum()
    loss.backward()
    assert loss.item() == 0.0
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


@pytest.mark.parametrize("training", [True, False])
def test_no_cache_is_kept_in_training(blank_model: Path, training: bool) -> None:
    whisper = load_whisper(str(blank_model))
    prepare_training(whisper, ModelConfig()).train(training)(*inputs())
    assert whisper.model.generation_config.use_cache is not False
