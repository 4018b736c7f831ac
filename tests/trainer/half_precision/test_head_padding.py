"""The channels that are added to heads hold constants, and are no part of the model."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.half_precision.test_forward import ALL, engine_of, inputs, module_of
from trainer.distributed.engine import Engine
from trainer.half_precision.silence import HEAD_PADDING

pytestmark = pytest.mark.usefixtures("one_thread")
PADDED = ("encoder.layers.qkv", "decoder.layers.cross_q", "decoder.layers.cross_kv")
KNOBS: list[dict[str, Any]] = [
    {},
    {"freeze": ("*.layers.0",)},
    {"lora_rank": 4, "lora_modules": ALL},
]


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_updates_and_checkpoints_leave_the_padding_and_its_norm_is_not_clipped(
    wide_model: Path, knobs: dict[str, Any]
) -> None:
    engine = engine_of(wide_model, "bf16", **knobs)
    for _ in range(2):
        update(engine)
    engine.module.load_state_dict(module_of(wide_model, **knobs).state_dict())
    update(engine)
    assert engine.module.half_forward is not None
    values = engine.module.half_forward.weights.values
    for kind in PADDED:
        weight, bias = (values[f"{kind}.{name}"].detach() for name in ("weight", "bias"))
        padding = bias[..., -HEAD_PADDING:]
        if kind != "decoder.layers.cross_kv":  # the constant channel of queries
            assert (padding[:, 0, :, 0] == 1).all()
            padding[:, 0, :, 0].zero_()
        assert not padding.any()
        assert not weight[..., -HEAD_PADDING:, :].any()
    for kind, keys in (("encoder.layers.qkv", 1), ("decoder.layers.cross_kv", 0)):
        assert not values[f"{kind}.bias"].detach()[:, keys].any()  # keys have no bias


def update(engine: Engine) -> None:
    """Make an update; the norm is that of the trained parameters' gradients alone."""
    engine.begin_update()
    engine.backward(engine.model.train()(*inputs()).sum())
    engine.average_gradient()
    parameters = list(engine.module.parameters())
    gradients = [p.grad.flatten() for p in parameters if p.grad is not None]
    assert len(gradients) == sum(p.requires_grad for p in parameters)
    expected = torch.cat(gradients).norm()
    torch.testing.assert_close(engine.clip_gradient(1.0), expected, rtol=1e-4, atol=0)
    engine.optimizer_step()
