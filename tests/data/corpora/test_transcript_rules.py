"""Text rules that change a transcript are named and counted."""

from pathlib import Path

from data.corpora.transcript_rules import Rule, apply, count_rules
from data.manifest import Manifest
from data.utterance import Utterance

RULES = (Rule("spaces removed", lambda t: t.replace(" ", "")), Rule("lower case", str.lower))


def test_only_rules_that_changed_something_are_named() -> None:
    assert apply("A b", RULES) == ("ab", ("spaces removed", "lower case"))
    assert apply("ab", RULES) == ("ab", ())
    assert apply("A", RULES) == ("a", ("lower case",))


def test_space_at_the_ends_is_no_rule() -> None:
    assert apply("  ab \n", RULES) == ("ab", ())


def test_rules_are_counted_by_corpus() -> None:
    rows = [
        Utterance(id=str(n), audio="", text="", corpus=corpus, rules=rules)
        for n, (corpus, rules) in enumerate(
            [("a", ("x", "y")), ("a", ("x",)), ("b", ("y",)), ("b", ())]
        )
    ]
    assert count_rules(rows) == {"a": {"x": 2, "y": 1}, "b": {"y": 1}}


def test_a_frozen_manifest_keeps_them(tmp_path: Path) -> None:
    rows = [Utterance(id="a", audio="/a", text="t", rules=("x",))]
    Manifest(train=rows).write(tmp_path / "manifest.jsonl")
    assert list(Manifest.read(tmp_path / "manifest.jsonl").train) == rows
