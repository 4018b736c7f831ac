"""Evaluator transcribes every utterance once, as transformers does, on any number of processes."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from data.audio.decode import load_audio
from data.batch import Batch
from data.batching.collate import pad_waveforms
from data.config import DataConfig
from data.corpora import read
from data.dataloader import BatchPreparer, eval_batches
from data.errors import InputError
from data.log_mel import LogMel
from data.sampling.padded_length import evaluation_frames, padded_frames
from data.utterance import Utterance
from eval.batch_size import GPU_SECONDS, BatchMemory
from eval.config import EvalConfig
from eval.evaluate import Evaluator, save
from eval.generate import DecodeResult, encode, transcribe
from eval.greedy import GreedyDecoder
from eval.whisper import Whisper, load_whisper
from trainer.commands.tiny_model import TinyModelConfig, make_tiny_model

WriteClip = Callable[..., Path]
SHORT = EvalConfig(batch_seconds=120, max_length=20)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """Return an Accelerator on the CPU that no other test shares."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory, tone_corpus: Path) -> Path:
    """Return a model with weights so large that each clip gets a text of its own."""
    out = tmp_path_factory.mktemp("model") / "talkative"
    config = TinyModelConfig(
        out=str(out),
        corpus=(str(tone_corpus),),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        heads=2,
        init_std=0.3,
    )
    make_tiny_model(config)
    return out


@pytest.fixture
def whisper(talkative: Path) -> Whisper:
    """Return that model, loaded."""
    return load_whisper(str(talkative))


@pytest.fixture
def config(tone_corpus: Path) -> DataConfig:
    """Return knobs for the tone corpus, in this process."""
    return DataConfig(corpus=(str(tone_corpus),), workers=0)


@pytest.fixture
def evaluator(accelerator: Accelerator, whisper: Whisper, config: DataConfig) -> Evaluator:
    """Return an evaluator of the tone corpus."""
    return Evaluator(accelerator=accelerator, whisper=whisper, data=config, config=SHORT)


@pytest.fixture
def rows(config: DataConfig) -> list[Utterance]:
    """Return the test split."""
    return list(read(config, "test"))


def original(whisper: Whisper, u: Utterance, **options: Any) -> str:
    """Return what transformers' own extractor and generate make of a clip."""
    extractor, model = whisper.processor.feature_extractor, whisper.model.eval()
    found = extractor(load_audio(u).numpy(), sampling_rate=16_000, return_tensors="pt")
    options = {"language": "en", "task": "transcribe", "num_beams": 1, **options}
    tokens = model.generate(found.input_features, do_sample=False, max_length=20, **options)
    return str(whisper.processor.batch_decode(tokens, skip_special_tokens=True)[0]).strip()


def test_texts_equal_those_of_transformers_one_clip_at_a_time(
    evaluator: Evaluator, rows: list[Utterance]
) -> None:
    _, hypotheses = evaluator.evaluate(rows, "test")
    texts = [h.text for h in hypotheses]
    assert texts == [original(evaluator.whisper, u) for u in rows]
    assert len(set(texts)) >= 4  # else the comparison would say little


def test_the_watchdog_is_paused_after_the_last_batch(
    evaluator: Evaluator, rows: list[Utterance]
) -> None:
    told: list[str] = []
    watched = replace(
        evaluator,
        heartbeat=lambda: told.append("beat"),
        pause_watchdog=lambda: told.append("pause"),
    )
    watched.evaluate(rows, "test")
    assert set(told[:-1]) == {"beat"}
    assert told[-1] == "pause"


def test_every_utterance_is_transcribed_once_and_in_order(
    evaluator: Evaluator, rows: list[Utterance]
) -> None:
    scores, hypotheses = evaluator.evaluate(rows, "test")
    assert [h.utterance for h in hypotheses] == rows
    assert sum(group.clips + group.empty for group in scores.groups) == len(rows)
    assert scores.audio_seconds == pytest.approx(sum(u.seconds for u in rows))
    assert scores.seconds > 0


@pytest.mark.parametrize("true_length", [False, True], ids=["padded", "true length"])
@pytest.mark.parametrize("knobs", [{"batch_seconds": 1.0}, {"batch_seconds": 3000.0}, {}])
def test_the_size_of_batches_changes_no_text(
    knobs: dict[str, Any], true_length: bool, evaluator: Evaluator, rows: list[Utterance]
) -> None:
    other = replace(evaluator, config=EvalConfig(max_length=SHORT.max_length, **knobs))
    rows = [replace(u, tokens=8) for u in rows]
    first, second = (
        each.evaluate(rows, "", true_length=true_length, with_reference_loss=True)[1]
        for each in (evaluator, other)
    )
    assert [h.text for h in first] == [h.text for h in second]
    losses = [[h.reference_loss.nll for h in each if h.reference_loss] for each in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[0]) == len(rows)


def shares(
    utterances: Sequence[Utterance], world: int, seconds: float, *, true_length: bool = False
) -> list[list[list[int]]]:
    """Return the batches of each process."""
    whisper: Any = None
    found = []
    for rank in range(world):
        cpu = torch.device("cpu")
        process: Any = SimpleNamespace(process_index=rank, num_processes=world, device=cpu)
        evaluator = Evaluator(
            accelerator=process,
            whisper=whisper,
            data=DataConfig(),
            config=EvalConfig(batch_seconds=seconds),
        )
        max_rows = evaluator._rows_in_seconds
        batches, rounds = evaluator.shard(utterances, max_rows, true_length=true_length)
        assert len(batches) in (rounds, rounds - 1)  # every process beats as often
        found.append(batches)
    return found


LENGTHS = [1.0, 31.0, 30.0, 4.0, 4.0, 100.0, 2.0, 8.0, 30.1, 0.5]
CLIPS = [Utterance(id=str(n), audio="", text="", seconds=s) for n, s in enumerate(LENGTHS)]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("true_length", [False, True])
def test_processes_together_transcribe_every_utterance_once(world: int, true_length: bool) -> None:
    found = shares(CLIPS, world, 90.0, true_length=true_length)
    batches = [batch for share in found for batch in share]
    assert sorted(i for batch in batches for i in batch) == list(range(len(LENGTHS)))
    long = [batch for batch in batches if any(LENGTHS[i] > 30 for i in batch)]
    assert sorted(long) == [[1], [5], [8]]  # whole windows each, so alone
    for batch in batches:
        assert [LENGTHS[i] for i in batch] == sorted((LENGTHS[i] for i in batch), reverse=True)


def test_batches_are_as_large_as_batch_seconds_allows() -> None:
    (padded,) = shares(CLIPS, 1, 90.0)
    assert sorted(map(len, padded)) == [1, 1, 1, 1, 3, 3]  # three clips over 30 s, and 7 windows
    (short,) = shares(CLIPS, 1, 90.0, true_length=True)
    assert [[LENGTHS[i] for i in batch] for batch in short if len(batch) > 1] == [[4, 4]]
    assert all(
        max(LENGTHS[i] for i in batch) * len(batch) <= 90 for batch in short if len(batch) > 1
    )
    (alone,) = shares(CLIPS, 1, 0.1, true_length=True)
    assert [len(batch) for batch in alone] == [1] * len(CLIPS)


LEAST = 50_000_000  # free bytes of the other process's GPU


class Gpu:
    """Processes that each have a GPU, with other free memory."""

    process_index, num_processes, device = 0, 2, torch.device("cuda")


@pytest.fixture
def on_gpus(whisper: Whisper, monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    """Return an evaluator on two GPUs, of which this process's has more free memory."""
    accelerator: Any = Gpu()
    evaluator = Evaluator(
        accelerator=accelerator, whisper=whisper, data=DataConfig(), config=EvalConfig()
    )
    monkeypatch.setattr("eval.evaluate.free_memory", lambda _: 10**12)
    monkeypatch.setattr("eval.evaluate.gather_object", lambda own: [*own, LEAST])
    return evaluator


def test_the_gpu_with_least_memory_sizes_the_batches_of_all(on_gpus: Evaluator) -> None:
    greedy = GreedyDecoder(on_gpus.whisper, graphs=True)
    max_rows = on_gpus._max_rows(on_gpus.whisper, greedy, 0)
    memory = BatchMemory(
        whisper=on_gpus.whisper, greedy=greedy, config=EvalConfig(), label_tokens=0
    )
    assert 1 < max_rows(30.0) == memory.rows(30.0, LEAST) < memory.rows(30.0, 10**12)
    clips = [replace(CLIPS[2], id=str(n)) for n in range(100)]
    batches, _ = on_gpus.shard(clips, max_rows, true_length=False)
    assert {len(batch) for batch in batches[:-1]} == {max_rows(30.0)}


def test_a_knob_or_a_cpu_leaves_memory_to_the_splitter(on_gpus: Evaluator) -> None:
    greedy = GreedyDecoder(on_gpus.whisper, graphs=True)
    fixed = replace(on_gpus, config=EvalConfig(batch_seconds=60.0))
    cpu = Accelerator(cpu=True)
    on_cpu = replace(on_gpus, accelerator=cpu)
    for each, seconds in ((fixed, 60.0), (on_cpu, 480.0)):
        assert each.batch_seconds == seconds
        assert each._max_rows(each.whisper, greedy, 0)(30.0) == seconds / 30.0
    assert on_gpus.batch_seconds == GPU_SECONDS


def test_no_clip_is_padded_to_twice_its_length_and_more() -> None:
    clips = [Utterance(id=str(n), audio="", text="", seconds=1 + n / 10) for n in range(250)]
    (short,) = shares(clips, 1, 480.0, true_length=True)
    assert max(map(len, short)) > 30  # and they are still many together
    for batch in short:
        edges = [padded_frames(clips[i].seconds) for i in batch]
        assert min(edges) > 0.5 * evaluation_frames(clips[batch[0]].seconds)


def test_a_small_set_is_spread_over_all_processes() -> None:
    short = [u for u in CLIPS if u.seconds < 10]
    found = shares(short, 3, 480.0)
    assert [len(share) for share in found] == [1, 1, 1]


def test_a_clip_over_30_s_is_transcribed_whole_and_scored_apart(
    evaluator: Evaluator, rows: list[Utterance], tmp_path: Path, write_clip: WriteClip
) -> None:
    path = write_clip(tmp_path / "long.wav", 31.0)
    long = replace(rows[0], id="long", audio=str(path), seconds=31.0)
    scores, hypotheses = evaluator.evaluate([*rows, long], "test")
    assert [group.clips for group in scores.groups] == [6]
    assert [group.clips for group in scores.long] == [1]
    alone, _ = evaluator.evaluate(rows, "test")
    assert alone.groups == scores.groups
    assert hypotheses[-1].utterance.id == "long"


def test_a_deleted_clip_is_an_input_error(
    evaluator: Evaluator, rows: list[Utterance], tmp_path: Path
) -> None:
    rows[2] = replace(rows[2], audio=str(tmp_path / "gone.mp3"))
    with pytest.raises(InputError, match=r"gone\.mp3: missing .* file could be read when the run"):
        evaluator.evaluate(rows, "test")


@pytest.mark.parametrize("training", [True, False])
def test_an_evaluation_restores_the_models_training_mode(
    training: bool, evaluator: Evaluator, rows: list[Utterance]
) -> None:
    evaluator.whisper.model.train(training)
    evaluator.evaluate(rows[:1], "test")
    assert evaluator.whisper.model.training is training


def test_an_empty_split_is_no_error(evaluator: Evaluator) -> None:
    scores, hypotheses = evaluator.evaluate([], "test")
    assert (scores.groups, scores.long, scores.error, hypotheses) == ([], [], 0.0, [])


def test_scores_and_texts_are_written(
    evaluator: Evaluator, rows: list[Utterance], tmp_path: Path
) -> None:
    scores, hypotheses = evaluator.evaluate(rows, "test")
    save(tmp_path / "out", scores, hypotheses, model="mine", left_out={"unreadable": 1})
    told = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (told["model"], told["left_out"]) == ("mine", {"unreadable": 1})
    assert told["error"] == scores.error
    lines = (tmp_path / "out" / "utterances.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [u.id for u in rows]


# decode


def heard(
    whisper: Whisper,
    rows: Sequence[Utterance],
    config: DataConfig,
    knobs: EvalConfig = SHORT,
    *,
    true_length: bool = False,
) -> list[str]:
    """Transcribe one batch."""
    stages, group = BatchPreparer(whisper.labels(), whisper.n_mels), list(range(len(rows)))
    (batch,) = eval_batches(rows, config, stages, [group], true_length=true_length)
    return [h.text for h in transcribe(whisper, batch, knobs, encode(whisper, batch))]


def test_true_length_decodes_the_output_of_the_short_encoder(
    whisper: Whisper, rows: list[Utterance], config: DataConfig
) -> None:
    whisper.model.eval()
    u = rows[0]
    (text,) = heard(whisper, [u], config, true_length=True)
    frames = evaluation_frames(u.seconds)
    short = LogMel(whisper.n_mels)(pad_waveforms([load_audio(u)], frames))
    assert short.shape[-1] == frames < 600
    with torch.inference_mode():
        states = whisper.model.model.encoder(short).last_hidden_state
        ids = torch.tensor([whisper.labels().prefix(u.language or "")])
        while ids.shape[1] < SHORT.max_length:  # greedy, by hand
            out = whisper.model.model.decoder(ids, encoder_hidden_states=states)
            logits = whisper.model.proj_out(out.last_hidden_state[:, -1])
            ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True)], dim=1)
            if ids[0, -1] == whisper.labels().end_id:
                break
    mine = whisper.processor.decode(ids[0], skip_special_tokens=True).strip()
    assert mine.rstrip("\ufffd")
    assert text.startswith(mine.rstrip("\ufffd"))  # generate does not count the prefix
    assert text != heard(whisper, [u], config)[0]  # an encoder without a mask hears the silence


def test_clips_of_two_tasks_are_decoded_apart_and_scored_together(
    evaluator: Evaluator, rows: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    def watched(whisper: Whisper, batch: Batch, *how: Any) -> list[DecodeResult]:
        seen.append(set(batch.tasks))
        return transcribe(whisper, batch, *how)

    monkeypatch.setattr("eval.evaluate.transcribe", watched)
    mixed = [replace(u, task=("transcribe", "translate")[i % 2]) for i, u in enumerate(rows)]
    _, hypotheses = evaluator.evaluate(mixed, "")
    assert [len(tasks) for tasks in seen] == [1] * len(seen)
    assert set.union(*seen) == {"transcribe", "translate"}
    assert {h.utterance.id for h in hypotheses} == {u.id for u in rows}


def test_true_length_encodes_fewer_frames_and_scores_all_clips(
    evaluator: Evaluator, rows: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def watched(whisper: Whisper, batch: Batch, *how: Any) -> list[DecodeResult]:
        seen.append(batch.features.shape[-1])
        return transcribe(whisper, batch, *how)

    monkeypatch.setattr("eval.evaluate.transcribe", watched)
    _, hypotheses = evaluator.evaluate(rows, "", true_length=True)
    assert [h.utterance.id for h in hypotheses] == [u.id for u in rows]
    assert max(seen) == evaluation_frames(max(u.seconds for u in rows)) < 600


def test_a_decoding_loop_ends_at_tokens_per_second(
    whisper: Whisper, rows: list[Utterance], config: DataConfig
) -> None:
    # this model never ends by itself
    seconds = rows[0].seconds
    texts = [
        heard(whisper, rows[:1], config, EvalConfig(tokens_per_second=n, max_length=120))[0]
        for n in (0.01, 16 / seconds, 1000.0)
    ]
    lengths = [len(text) for text in texts]  # of at most 16, 32 and 120 tokens
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[1] < lengths[2]


def test_num_beams_is_used(whisper: Whisper, rows: list[Utterance], config: DataConfig) -> None:
    whisper.model.eval()
    texts = heard(whisper, rows[:3], config, replace(SHORT, num_beams=3))
    assert texts == [original(whisper, u, num_beams=3) for u in rows[:3]]


def test_max_length_limits_the_tokens(
    whisper: Whisper, rows: list[Utterance], config: DataConfig
) -> None:
    short, long = (
        heard(whisper, rows[:1], config, replace(SHORT, max_length=n))[0] for n in (8, 20)
    )
    assert long.startswith(short.rstrip("\ufffd"))
    assert len(short) < len(long)


def test_decoding_does_not_change_the_generation_config(
    whisper: Whisper, rows: list[Utterance], config: DataConfig
) -> None:
    before = whisper.model.generation_config.to_dict()
    heard(whisper, rows[:2], config)
    assert whisper.model.generation_config.to_dict() == before


def test_no_language_is_passed_to_an_english_only_model(
    whisper: Whisper, rows: list[Utterance], config: DataConfig
) -> None:
    whisper.model.generation_config.is_multilingual = False
    assert not whisper.multilingual
    texts = heard(whisper, rows[:2], config)
    assert texts == [original(whisper, u, language=None, task=None) for u in rows[:2]]
