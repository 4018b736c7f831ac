"""An evaluation on a GPU hears what one on a CPU hears."""

import pytest
import torch
from gpu.model import fresh_accelerator, random_whisper
from gpu.rows import record, smoke
from torch import Tensor

from data.config import DataConfig
from data.log_mel import SAMPLE_RATE
from data.utterance import Utterance
from eval.batch_size import BatchMemory
from eval.config import EvalConfig
from eval.evaluate import Evaluator
from eval.greedy import GreedyDecoder
from eval.metrics.hypothesis import Hypothesis
from eval.whisper import Whisper

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

CLIPS = 4 if smoke() else 16
SPREAD = 25.0  # times the usual weights of what hears: each clip gets a text of its own
# relative difference of the summed loss of the references, by Accelerate's word for the precision
ALLOWED = {"no": 1e-3, "bf16": 0.1, "fp16": 0.02}


def talkative(device: torch.device) -> Whisper:
    """Return a small model of random weights, the same on every device, that says much."""
    whisper = random_whisper("nano", torch.device("cpu"))
    with torch.no_grad():
        for name, weight in whisper.model.named_parameters():
            if "conv" in name or "encoder_attn" in name:
                weight.mul_(SPREAD)
    whisper.model.to(device)
    return whisper


def sound(utterance: Utterance) -> Tensor:
    """Return noise that belongs to an utterance. Shape: (samples,)."""
    generator = torch.Generator().manual_seed(int(utterance.id))
    return 0.1 * torch.randn(round(utterance.seconds * SAMPLE_RATE), generator=generator)


def heard(device: torch.device, precision: str, *, true_length: bool) -> list[Hypothesis]:
    """Return what an evaluation hears, and what the references cost."""
    utterances = [
        Utterance(
            id=str(i), audio=str(i), text="one two", tokens=8, seconds=1.0 + i / 8, language="en"
        )
        for i in range(CLIPS)
    ]
    evaluator = Evaluator(
        accelerator=fresh_accelerator(device, precision),
        whisper=talkative(device),
        data=DataConfig(workers=0),
        config=EvalConfig(max_length=12),
    )
    return evaluator.evaluate(
        utterances, precision, true_length=true_length, with_reference_loss=True, load_audio=sound
    )[1]


def loss(hypotheses: list[Hypothesis]) -> float:
    """Return the loss of all references, in nats."""
    return sum(h.reference_loss.nll for h in hypotheses if h.reference_loss)


@pytest.mark.parametrize("true_length", [False, True], ids=["padded", "true length"])
@pytest.mark.parametrize("precision", list(ALLOWED))
def test_texts_and_loss_of_an_evaluation_are_those_of_a_cpu(
    precision: str, true_length: bool, device: torch.device
) -> None:
    if precision == "fp16" and device.type != "cuda":
        pytest.skip("fp16 needs a GPU")
    expected = heard(torch.device("cpu"), "no", true_length=true_length)
    found = heard(device, precision, true_length=true_length)
    same = sum(a.text == b.text for a, b in zip(expected, found, strict=True))
    off = abs(loss(found) - loss(expected)) / loss(expected)
    texts = len({h.text for h in expected})
    length = "true length" if true_length else "padded"
    record(f"{precision}, {length}", clips=CLIPS, texts=texts, same=same, loss_difference=off)
    assert loss(expected) > 0, "the references should cost something, found 0"
    assert off < ALLOWED[precision], f"expected a loss within {ALLOWED[precision]}, found {off}"
    assert texts > CLIPS // 3, f"too few texts to compare: {texts} of {CLIPS} clips"
    if precision == "no":  # two tokens may be as likely as each other
        assert same >= CLIPS - 1, f"expected {CLIPS} texts to be the same, found {same}"


@pytest.mark.parametrize("true_length", [False, True], ids=["padded", "true length"])
def test_a_batch_takes_no_more_memory_than_is_estimated(
    true_length: bool, gpu: torch.device
) -> None:
    whisper = random_whisper("nano" if smoke() else "small", gpu)
    whisper.model.to(torch.bfloat16).eval()
    tokens, seconds = 40, 7.52  # of a label, and one of the padded lengths at true length
    utterances = [
        Utterance(id=str(i), audio="", text="one", tokens=tokens, seconds=seconds, language="en")
        for i in range(4 * CLIPS)
    ]
    padded = seconds if true_length else 30.0
    evaluator = Evaluator(
        accelerator=fresh_accelerator(gpu, "no"),
        whisper=whisper,
        data=DataConfig(workers=0),
        config=EvalConfig(batch_seconds=CLIPS * padded, max_length=24),
    )
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    evaluator.evaluate(
        utterances, "", true_length=true_length, with_reference_loss=True, load_audio=sound
    )
    taken = torch.cuda.max_memory_allocated() - before
    greedy = GreedyDecoder(whisper)  # after evaluate(), which has set the silence states
    memory = BatchMemory(
        whisper=whisper, greedy=greedy, config=evaluator.config, label_tokens=tokens
    )
    estimate = memory.bytes(CLIPS, padded)
    length = "true length" if true_length else "padded"
    record(f"memory, {length}", clips=CLIPS, taken_gb=taken / 1e9, estimate_gb=estimate / 1e9)
    assert taken <= estimate, f"expected {estimate / 1e9} GB at most, found {taken / 1e9}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_decoding_replays_cuda_graphs(
    dtype: torch.dtype, gpu: torch.device, capsys: pytest.CaptureFixture[str]
) -> None:
    whisper = talkative(gpu)
    whisper.model.to(dtype).eval()
    prefixes, limits = [whisper.labels().prefix("en")] * CLIPS, [8 + 3 * i for i in range(CLIPS)]
    generator = torch.Generator(gpu).manual_seed(0)
    width = whisper.model.config.d_model
    states = torch.randn(CLIPS, 1500, width, generator=generator, device=gpu, dtype=dtype)
    graphs, eager = GreedyDecoder(whisper), GreedyDecoder(whisper, graphs=False)
    same = []
    with torch.inference_mode():
        for _ in range(2):
            found, expected = (each.decode(states, prefixes, limits) for each in (graphs, eager))
            same.append(sum(a[: len(b)] == b for a, b in zip(found, expected, strict=True)))
            whisper.model.model.decoder.layer_norm.weight.mul_(-1)  # in place, as training does
    assert graphs._state is not None
    captured = [shape for shape, graph in graphs._state.graphs.items() if graph is not None]
    record(f"graphs, {dtype}", captured=len(captured), clips=CLIPS, same=same)
    assert "warning" not in capsys.readouterr().out
    assert captured, "no step was captured"
    assert {rows for rows, _ in captured} <= {1, 2, 4, 8, 16}
    if dtype == torch.float32:  # two tokens may be as likely as each other
        assert min(same) >= CLIPS - 1, f"expected {CLIPS} texts to be the same, found {same}"
