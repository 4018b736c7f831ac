"""A clip that crashes the decoder is dropped, and nothing else is lost, in scans and training."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from data import dataloader as loader
from data import worker_crashes as workers
from data.audio import decode as audio
from data.audio.open_audio import AudioError
from data.batch import IGNORE_INDEX, Batch, Position
from data.batching import collate
from data.config import DataConfig
from data.corpora import read
from data.dataloader import BatchPreparer, TrainLoader, eval_batches, train_batches
from data.errors import InputError
from data.labels import LabelEncoder
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.screening import durations as scan
from data.utterance import Utterance
from data.worker_crashes import HANGS, KILLS, MAX_DEATHS
from eval.whisper import load_whisper

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
decode, measure = audio.decode, scan.measure
Crew = list[Any]  # processes


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have torch look for dead workers all the time, not every 5 s, and compute on one thread."""
    look: Any = _MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(look, "__defaults__", (0.1,))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def label_encoder(blank_model: Path) -> LabelEncoder:
    """Return a LabelEncoder that supports en and zh."""
    return load_whisper(str(blank_model)).labels()


@dataclass
class Corpus:
    """Utterances, and how they are cut into passes."""

    rows: list[Utterance]
    config: DataConfig
    label_encoder: LabelEncoder

    def passes(self, workers: int, lethal: Sequence[str] = ()) -> TrainLoader:
        """Return real passes, with real workers."""
        config = replace(self.config, workers=workers, prefetch=2)
        plan = Plan.from_utterances(self.rows, config, seed=0)
        sampler = BucketedBatchSampler(plan, config, updates=1)
        return train_batches(
            self.rows, config, BatchPreparer(self.label_encoder, 80), sampler, fatal_ids=lethal
        )

    def epoch(self, workers: int, lethal: Sequence[str] = ()) -> list[Batch]:
        """Return an epoch's passes."""
        return list(self.start(self.passes(workers, lethal)))

    def start(self, passes: TrainLoader) -> Iterator[Batch]:
        """Start an epoch's passes."""
        return passes.start(
            Position(), Plan.from_utterances(self.rows, self.config, seed=0).num_updates(1)
        )


@pytest.fixture
def corpus(tone_corpus: Path, label_encoder: LabelEncoder) -> Corpus:
    """Return the training split of the tone corpus, two or three clips per forward pass."""
    config = DataConfig(
        corpus=(str(tone_corpus),), update_seconds=12.0, max_seconds_per_forward=7.0, pad="bucket"
    )
    rows = list(read(config, "train"))
    counts = label_encoder.count_tokens([u.text for u in rows], ["en"] * len(rows))
    rows = [replace(u, tokens=n) for u, n in zip(rows, counts, strict=True)]
    return Corpus(rows=rows, config=config, label_encoder=label_encoder)


Ends = Callable[[], Any]


@pytest.fixture
def evil(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Callable[[], list[str]]]:
    """Return a function that makes the decoder do something on some clips.

    It returns one that tells on which it was done so far, in any process.
    """
    log = tmp_path / "evil"
    log.touch()

    def make(clips: Sequence[Utterance], act: Ends) -> Callable[[], list[str]]:
        lethal = {u.audio for u in clips}

        def act_on(name: str) -> None:
            if name in lethal:
                with log.open("a") as file:
                    file.write(name + "\n")
                act()

        def worse(name: str, *arguments: Any) -> Any:
            act_on(name)
            return decode(name, *arguments)

        def worse_scan(name: str, check: str) -> Any:
            act_on(name)
            return measure(name, check)

        monkeypatch.setattr(audio, "decode", worse)
        monkeypatch.setattr(scan, "measure", worse_scan)
        return lambda: log.read_text().splitlines()

    return make


def die(number: signal.Signals = signal.SIGSEGV) -> None:
    """End this process as a crash does."""
    os.kill(os.getpid(), number)
    time.sleep(60)


def spin() -> None:
    """Compute for ever."""
    while True:
        pass


def refuse() -> None:
    """Fail as broken audio does."""
    raise AudioError("unreadable", "for comparison")


def same(a: Sequence[Batch], b: Sequence[Batch]) -> bool:
    """Return whether two lists of batches are bitwise equal."""
    return len(a) == len(b) and all(
        (x.ids, x.position, x.next_position, x.is_last, x.seconds, x.tokens)
        == (y.ids, y.position, y.next_position, y.is_last, y.seconds, y.tokens)
        and torch.equal(x.features, y.features)
        and torch.equal(x.labels, y.labels)
        for x, y in zip(a, b, strict=True)
    )


def named(batches: Sequence[Batch]) -> dict[str, tuple[str, str]]:
    """Return reason and detail of the drops, by id."""
    return {drop.id: (drop.reason, drop.detail) for b in batches for drop in b.drops}


def crew() -> Crew:
    """Return the running worker processes."""
    return multiprocessing.active_children()


def gone(pids: Sequence[int], seconds: float = 10) -> bool:
    """Return whether processes exit in time; zombies count as exited."""
    deadline = time.monotonic() + seconds

    def lives(pid: int) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state != "Z"

    while any(map(lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(lives, pids))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_clip_that_kills_its_decoder_has_no_weight_and_all_others_are_as_they_were(
    workers: int, corpus: Corpus, evil: Any
) -> None:
    lethal = [corpus.rows[3], corpus.rows[4], corpus.rows[17]]
    evil(lethal, refuse)
    expected = corpus.epoch(0)
    deaths = evil(lethal, die)
    before = crew()
    passes = corpus.passes(workers)
    found = list(corpus.start(passes))
    assert same(found, expected)
    assert named(found) == dict.fromkeys(
        (u.id for u in lethal), (KILLS, "a worker died of it: SIGSEGV")
    )
    assert {name for b in found for name, n in zip(b.ids, b.tokens, strict=True) if not n} == {
        u.id for u in lethal
    }
    assert all(bool((b.labels != IGNORE_INDEX).any()) for b in found if len(b.ids) > 1)
    assert crew() == before
    # decoded once in this process and once in a worker: never again
    assert sorted(deaths())[::2] == sorted(u.audio for u in lethal)
    assert same(list(corpus.start(passes)), expected)
    assert len(deaths()) == 2 * len(lethal)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_killed_an_earlier_start_is_not_decoded_by_a_later_one(
    workers: int, corpus: Corpus, evil: Any
) -> None:
    deaths = evil([corpus.rows[3]], die)
    found = corpus.epoch(workers, lethal=[corpus.rows[3].id, "of another corpus"])
    assert named(found) == {corpus.rows[3].id: (KILLS, "in an earlier start")}
    assert deaths() == []


@pytest.mark.parametrize(
    ("act", "cause"), [(spin, "SIGPROF"), (partial(time.sleep, 60), "SIGALRM")]
)
def test_a_clip_that_is_never_decoded_to_its_end_hangs_the_decoder(
    act: Ends, cause: str, corpus: Corpus, evil: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "TRAIN_DECODE_SECONDS", 0.3)
    monkeypatch.setattr(workers, "STALL_SECONDS", 1.0 if cause == "SIGALRM" else 60.0)
    evil([corpus.rows[5]], act)
    assert named(corpus.epoch(2)) == {corpus.rows[5].id: (HANGS, f"a worker died of it: {cause}")}


def test_evaluation_names_what_kills_its_decoder(corpus: Corpus, evil: Any) -> None:
    evil([corpus.rows[1]], die)
    config = replace(corpus.config, workers=2)
    found = list(
        eval_batches(corpus.rows, config, BatchPreparer(corpus.label_encoder, 80), [[0, 1], [2]])
    )
    assert [b.ids for b in found] == [[u.id for u in corpus.rows[:2]], [corpus.rows[2].id]]
    assert named(found).keys() == {corpus.rows[1].id}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_clip_is_not_blamed_for_a_death_from_outside(
    number: signal.Signals, corpus: Corpus, evil: Any, tmp_path: Path
) -> None:
    expected = corpus.epoch(0)

    def once() -> None:
        if len(deaths()) == 1:
            die(number)

    deaths = evil([corpus.rows[3]], once)
    found = corpus.epoch(2)
    assert same(found, expected)
    assert named(found) == {}
    assert len(deaths()) == 2


@pytest.mark.parametrize("place", ["decode", "collate"])
def test_deaths_from_outside_without_end_raise_one_input_error(
    place: str, corpus: Corpus, evil: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "decode":
        evil([corpus.rows[3]], partial(die, signal.SIGKILL))
        told = f"the last of SIGKILL while decoding {corpus.rows[3].audio};"
    else:
        monkeypatch.setattr(collate, "pad_waveforms", lambda *_: die(signal.SIGKILL))
        told = "the last of SIGKILL;"
    before = crew()
    with pytest.raises(InputError, match=rf"data.workers: {MAX_DEATHS + 1} died in a row") as error:
        corpus.epoch(1)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert crew() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_a_programming_mistake_is_no_death(workers: int, corpus: Corpus, evil: Any) -> None:
    def mistake() -> None:
        raise KeyError("a bug")

    evil([corpus.rows[3]], mistake)
    with pytest.raises(KeyError, match="a bug"):
        corpus.epoch(workers)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_death_during_other_work_is_noticed_at_the_next_fetch_and_not_before(
    workers: int, corpus: Corpus
) -> None:
    expected, handler = corpus.epoch(0), signal.getsignal(signal.SIGCHLD)
    before = crew()
    batches = corpus.start(corpus.passes(workers))
    found = [next(batches)]
    assert signal.getsignal(signal.SIGCHLD) == handler
    victim = next(process for process in crew() if process not in before)
    os.kill(victim.pid, signal.SIGKILL)
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:  # the optimizer's step, say: torch would raise amid it
        torch.ones(100).sum().item()
    found += batches
    assert same(found, expected)


def test_only_the_parent_ends_a_worker(corpus: Corpus, evil: Any) -> None:
    expected, before = corpus.epoch(0), crew()
    passes = corpus.passes(2)
    batches = corpus.start(passes)
    found = [next(batches)]
    mine = [process for process in crew() if process not in before]
    for process in mine:  # as a scheduler does, to all processes of a job
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            command = f"import os; os.kill({process.pid}, {number})"
            context = multiprocessing.get_context("fork")
            sender = context.Process(target=exec, args=(command,))
            sender.start()
            sender.join()
    found += batches
    assert same(found, expected)
    assert named(found) == {}


def _train_and(end: Ends, corpus: Corpus, message: Connection) -> None:
    """Be a training process that takes a pass, tells its workers' pids, and ends."""
    before = crew()
    global kept
    kept = corpus.start(corpus.passes(2))  # as the frames of an exception keep it
    next(kept)
    message.send([process.pid for process in crew() if process not in before])
    end()


@pytest.mark.parametrize("end", [lambda: None, partial(die, signal.SIGKILL)], ids=["exit", "kill"])
@pytest.mark.parametrize("hangs", [False, True])
def test_workers_end_with_their_parent(end: Ends, hangs: bool, corpus: Corpus, evil: Any) -> None:
    if hangs:
        update = Plan.from_utterances(corpus.rows, corpus.config, seed=0).updates(0)[-1]
        evil([corpus.rows[i] for i in update], partial(time.sleep, 60))
    mine, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_train_and, args=(end, corpus, theirs))
    process.start()
    pids = mine.recv()
    assert len(pids) == 2
    process.join(10)
    assert process.exitcode is not None
    assert gone(pids)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("reason", [KILLS, HANGS])
def test_a_scan_names_the_culprit_and_measures_all_others(
    reason: str,
    workers: int,
    corpus: Corpus,
    evil: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scan.WorkerWatch.__init__, "__defaults__", (0.3,))
    config, cache = replace(corpus.config, workers=workers), tmp_path / "cache.jsonl"
    expected = scan.scan(corpus.rows, config, tmp_path / "other.jsonl", show=False)
    deaths = evil(lethal := [corpus.rows[2], corpus.rows[9]], die if reason == KILLS else spin)
    for _ in range(2):  # the second time from the cache
        found = scan.scan(corpus.rows, config, cache, show=False)
        assert [found[u.audio].reason for u in lethal] == [reason] * 2
        assert {k: m for k, m in found.items() if not m.reason} == {
            k: m for k, m in expected.items() if k not in {u.audio for u in lethal}
        }
    assert sorted(deaths()) == sorted(u.audio for u in lethal)
