"""Several corpora in one plan: repeated by their weights, each with its own options."""

from collections import Counter
from pathlib import Path

import pytest

from data.config import DataConfig
from data.corpora import read
from data.errors import InputError
from data.sampling.epoch_plan import Plan
from data.utterance import Utterance
from tests.conftest import make_tone_corpus


def clips(**corpora: int) -> list[Utterance]:
    """Return a number of clips of each corpus, of 1 to 5 s."""
    return [
        Utterance(
            id=f"{name}/{i}", audio="", text="", seconds=1.0 + i % 5, tokens=5 + i % 3, corpus=name
        )
        for name, count in corpora.items()
        for i in range(count)
    ]


def heard(plan: Plan, epochs: range) -> Counter[int]:
    """Count how often each utterance is drawn."""
    return Counter(index for epoch in epochs for update in plan.updates(epoch) for index in update)


def plan_of(utterances: list[Utterance], **knobs: object) -> Plan:
    """Return the plan of corpora a and b."""
    config = DataConfig(corpus=("a", "b"), update_seconds=30.0, **knobs)  # type: ignore[arg-type]
    return Plan.from_utterances(utterances, config, seed=3)


@pytest.mark.parametrize("weight", [0.01, 0.3, 0.5, 1.0, 1.7, 3.0])
def test_every_clip_is_repeated_by_its_corpus_weight(weight: float) -> None:
    utterances = clips(a=70, b=50)
    plan = plan_of(utterances, weights=(weight, 1.0))
    for epochs in (1, 2, 10):
        times = heard(plan, range(epochs))
        assert {times[i] for i in range(70, 120)} == {epochs}
        of_a = [times[i] for i in range(70)]
        assert sum(of_a) == int(weight * 70 * epochs + 1e-6)
        assert max(of_a) - min(of_a) <= 1  # nobody is more than one hearing ahead


def test_a_weight_of_one_is_the_plan_without_weights() -> None:
    utterances = clips(a=40, b=30)
    plain, weighed = plan_of(utterances), plan_of(utterances, weights=(1.0, 1.0))
    for epoch in range(3):
        assert list(plain.updates(epoch)) == list(weighed.updates(epoch))


def test_hours_are_hours_of_an_epoch() -> None:
    utterances = clips(a=700, b=500)
    plan = plan_of(utterances, hours_per_epoch=(0.1, 2.0))
    for epoch in range(3):
        drawn = [index for update in plan.updates(epoch) for index in update]
        seconds = {
            name: sum(utterances[i].seconds for i in drawn if utterances[i].corpus == name)
            for name in "ab"
        }
        assert seconds["a"] == pytest.approx(360, rel=0.1)  # clips differ in length
        assert seconds["b"] == pytest.approx(7200, rel=0.02)


def test_an_epoch_is_the_same_whenever_it_is_asked_for() -> None:
    utterances = clips(a=40, b=30)
    one, other = (plan_of(utterances, weights=(0.4, 2.5)) for _ in range(2))
    assert list(one.updates(7)) == list(other.updates(7))
    assert list(one.updates(7)) != list(one.updates(8))


def test_weights_go_by_the_names_that_a_run_was_begun_with() -> None:
    with pytest.raises(InputError, match=r"data.corpus is a, b, but the run's manifest holds c"):
        plan_of(clips(a=4, c=4), weights=(1.0, 2.0))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"language": ("en", "zh", "ko")}, "data.language has 3 values for 2 corpora"),
        ({"layout": ("manifest",) * 3}, "data.layout has 3 values for 2 corpora"),
        ({"task": ("translate",) * 3}, "data.task has 3 values for 2 corpora"),
        ({"weights": (1.0,)}, r"data.weights is \[1.0\] for 2 corpora: give each a number"),
        ({"hours_per_epoch": (1.0, 0.0)}, r"data.hours_per_epoch is \[1.0, 0.0\] for 2 corpora"),
        ({"weights": (1.0, 1.0), "hours_per_epoch": (1.0, 1.0)}, "say the same thing twice"),
    ],
)
def test_knobs_of_corpora_are_one_for_all_or_one_for_each(
    knobs: dict[str, tuple[object, ...]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        DataConfig(corpus=("a", "b"), **knobs)  # type: ignore[arg-type]


def test_each_corpus_has_its_own_language_and_task(tmp_path: Path) -> None:
    corpora = [make_tone_corpus(tmp_path / name / "en", splits={"train": 2}) for name in "ab"]
    config = DataConfig(
        corpus=tuple(map(str, corpora)), language=("zh", "fr"), task=("transcribe", "translate")
    )
    found = {(u.corpus, u.language, u.task) for u in read(config, "train")}
    assert found == {
        (str(corpora[0]), "zh", "transcribe"),
        (str(corpora[1]), "fr", "translate"),
    }


def test_tables_in_folders_of_one_name_do_not_share_ids(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name / "mine"
        folder.mkdir(parents=True)
        (folder / "x.wav").touch()
        (folder / "train.jsonl").write_text('{"path": "x.wav", "text": "one", "language": "en"}\n')
    config = DataConfig(corpus=tuple(str(tmp_path / name / "mine") for name in "ab"))
    ids = [u.id for u in read(config, "train")]
    assert len(set(ids)) == 2
    assert ids[1] == f"2:{ids[0]}"
