"""A sample of a split is stratified and reproducible."""

import random
from collections import Counter

import pytest

from data.utterance import Utterance
from eval.subset import stratified


def split(clips: int = 1000) -> list[Utterance]:
    """Return utterances of three languages, of all lengths, in no order."""
    rng = random.Random(1)
    shares = {"en": 0.7, "zh": 0.25, "ko": 0.05}
    rows = [
        Utterance(
            id=f"{language}-{n}",
            audio="/a.mp3",
            text="one",
            language=language,
            corpus=f"/corpus/{language}",
            seconds=rng.lognormvariate(1, 0.8),
        )
        for language, share in shares.items()
        for n in range(round(clips * share))
    ]
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("clips", [1, 40, 333, 999])
def test_a_sample_has_the_requested_size_without_duplicates(clips: int) -> None:
    chosen = stratified(split(), clips)
    assert len({u.id for u in chosen}) == len(chosen) == clips


@pytest.mark.parametrize("clips", [None, 1000, 5000])
def test_a_split_not_larger_than_the_sample_is_returned_whole(clips: int | None) -> None:
    assert stratified(split(), clips) == split()
    assert stratified([], clips) == []


def test_the_sample_keeps_the_shares_of_languages() -> None:
    counts = Counter(u.language for u in stratified(split(), 40))
    assert counts == {"en": 28, "zh": 10, "ko": 2}


def test_the_sample_keeps_the_distribution_of_lengths() -> None:
    everything = sorted(u.seconds for u in split() if u.language == "en")
    chosen = sorted(u.seconds for u in stratified(split(), 100) if u.language == "en")
    assert len(chosen) == 70
    for place, seconds in enumerate(chosen):  # each from its own seventieth
        assert everything[10 * place] <= seconds <= everything[10 * place + 9]


def test_the_sample_depends_only_on_utterances_size_and_seed() -> None:
    rows = split()
    chosen = {u.id for u in stratified(rows, 50)}
    assert {u.id for u in stratified(rows[::-1], 50)} == chosen
    assert {u.id for u in stratified(rows, 50, seed=1)} != chosen


def test_a_sample_keeps_the_splits_order() -> None:
    rows = split()
    places = [rows.index(u) for u in stratified(rows, 50)]
    assert places == sorted(places)
