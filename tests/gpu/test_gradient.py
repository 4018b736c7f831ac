"""Loss and gradient of a small Whisper are those of a CPU."""

from collections.abc import Iterator

import pytest
import torch
from gpu.model import fresh_accelerator, noise_batch, random_whisper
from gpu.rows import record, smoke
from torch import Tensor

from trainer.distributed.engine import Engine
from trainer.half_precision.forward import HalfForward
from trainer.model import ModelConfig, prepare_training
from trainer.step import train_step

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

ALLOWED = 1e-3  # relative to the norm of each weight's gradient, in float32


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Keep float32 products and convolutions in float32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


class Recorder(torch.optim.SGD):
    """Keeps the gradient in place of moving weights by it."""

    found: list[Tensor]

    def step(self, closure: object = None) -> None:  # type: ignore[override]  # returns nothing
        """Copy every weight's gradient."""
        weights = [weight for group in self.param_groups for weight in group["params"]]
        self.found = [weight.grad.double().cpu() for weight in weights]


def gradient(
    device: torch.device, *, silence: bool, copies: bool = False
) -> tuple[float, dict[str, Tensor]]:
    """Return the loss of an update in float32, and its gradient by weight.

    Args:
        device: computes it.
        silence: with silence states.
        copies: compute it as in half precision, from copies of the weights; here in float32.
    """
    accelerator = fresh_accelerator(device, "no")
    # made on the CPU, so that both devices have the same weights
    whisper = random_whisper("nano" if smoke() else "tiny", torch.device("cpu"))
    batch = noise_batch(whisper, torch.device("cpu"), 3, 1.92).to(device)
    whisper.model.to(device)
    module = prepare_training(whisper, ModelConfig(silence_states=silence)).train()
    named = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    optimizer = Recorder([weight for _, weight in named], lr=1.0)
    module.half_forward = HalfForward(module.whisper, torch.float32, device) if copies else None
    weights = None if module.half_forward is None else module.half_forward.weights
    engine = Engine(accelerator, module, optimizer, weights)
    result = train_step(engine, [batch], tokens=sum(batch.tokens), max_norm=1e9)
    names = [name for name, _ in named]
    return float(result.loss), dict(zip(names, optimizer.found, strict=True))


@pytest.mark.parametrize("copies", [False, True], ids=["stock", "copies"])
@pytest.mark.parametrize("silence", [True, False], ids=["silence", "stock attention"])
def test_loss_and_gradient_are_those_of_a_cpu(
    silence: bool, copies: bool, device: torch.device
) -> None:
    loss, expected = gradient(torch.device("cpu"), silence=silence)
    here, found = gradient(device, silence=silence, copies=copies)
    total = sum(float(each.square().sum()) for each in expected.values()) ** 0.5
    # what hardly has a gradient, as the keys' bias, has rounding alone: measured by the whole
    off = {
        name: float((found[name] - each).norm() / max(float(each.norm()), 1e-3 * total))
        for name, each in expected.items()
    }
    worst = max(off, key=lambda name: off[name])
    record(
        f"{'silence' if silence else 'stock attention'}{', copies' if copies else ''}",
        loss_cpu=loss,
        loss=here,
        worst=worst,
        error=off[worst],
    )
    assert here == pytest.approx(loss, rel=1e-4), f"loss {here}, and {loss} on a CPU"
    assert off[worst] < ALLOWED, f"{worst}: expected within {ALLOWED}, found {off[worst]}"
