"""The ablation's figures: errors with intervals, and paired differences from padded training."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from eval.metrics.normalize import normalizer_for
from eval.metrics.units import unit_of
from eval.metrics.wer import ErrorCounts, character_errors, word_errors

DRAWS = 10_000  # of the bootstrap
LOOP = re.compile(r"(.+?)\1{3,}")  # something said four times over


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What one model heard in the held-out clips of a corpus, in the order of their ids."""

    mode: str
    seed: int
    decoded: str  # padded or short
    language: str
    corpus: str
    edits: Sequence[int]
    units: Sequence[int]  # words of the references, or characters where words have no spaces
    loops: Sequence[int]  # 1: a text that repeats itself as the reference does not

    def to_json(self) -> dict[str, Any]:
        """Return all fields."""
        return asdict(self)


def compared(reference: str, hypothesis: str, language: str) -> tuple[int, int, int]:
    """Return edits and units of a clip, and whether its text is a loop."""
    clean = normalizer_for("basic", language).apply
    count = word_errors if unit_of(language) == "word" else character_errors
    said = clean(reference)
    found = count([said], [clean(hypothesis)]) if said else ErrorCounts()
    loops = bool(LOOP.search(hypothesis)) and not LOOP.search(reference)
    return found.edits, found.units, int(loops)


def summary(heard: Sequence[Scored], modes: Sequence[str]) -> dict[str, Any]:
    """Return errors of each mode and way to decode, and their differences from the first mode.

    A bootstrap draws clips, all seeds of a clip together, the same ones for both modes: 95 % of
    the differences lie in the interval. Pooled are all corpora: edits over units.
    """
    told: dict[str, Any] = {}
    for decoded in ("padded", "short"):
        by_mode = {m: _by_clip(heard, m, decoded) for m in modes}
        # short decoding too is compared with padded training as stock pipelines decode it
        base = _by_clip(heard, modes[0], "padded")
        for mode, clips in by_mode.items():
            if clips:
                told.setdefault(mode, {})[decoded] = _figures(clips, base)
    return told


Clips = dict[tuple[str, int], dict[int, tuple[int, int, int]]]  # corpus, number: seed: counts


def _by_clip(heard: Sequence[Scored], mode: str, decoded: str) -> Clips:
    clips: Clips = defaultdict(dict)
    for each in (h for h in heard if (h.mode, h.decoded) == (mode, decoded)):
        rows = zip(each.edits, each.units, each.loops, strict=True)
        for number, counts in enumerate(rows):
            if counts[1]:
                clips[each.corpus, number][each.seed] = counts
    return clips


def _figures(clips: Clips, base: Clips) -> dict[str, Any]:
    told: dict[str, Any] = {"seeds": len({seed for by in clips.values() for seed in by})}
    for corpus in sorted({corpus for corpus, _ in clips}):
        mine = {key: by for key, by in clips.items() if key[0] == corpus}
        told[corpus] = {"rate": _rate(_sums(mine, mine)), "clips": len(mine)}
    told["loops"] = sum(loop for by in clips.values() for _, _, loop in by.values())
    told["pooled"] = {"rate": _rate(_sums(clips, clips)), "clips": len(clips)}
    told["pooled"]["interval"] = _interval(_sums(clips, clips), None)
    if base and base is not clips:
        told["difference"] = _rate(_sums(clips, base)) - _rate(_sums(base, clips))
        told["difference_interval"] = _interval(_sums(clips, base), _sums(base, clips))
    return told


def _sums(clips: Clips, also: Clips) -> "np.ndarray[Any, Any]":
    """Return edits and units of each clip, over the seeds that both have. Shape: (clips, 2)."""
    rows = []
    for key in sorted(clips.keys() & also.keys()):
        seeds = clips[key].keys() & also[key].keys()
        rows.append(np.sum([clips[key][seed][:2] for seed in seeds], axis=0) if seeds else (0, 0))
    return np.array(rows, dtype=float).reshape(-1, 2)


def _rate(sums: "np.ndarray[Any, Any]") -> float:
    edits, units = sums.sum(axis=0)
    return float(edits / units) if units else 0.0


def _interval(
    sums: "np.ndarray[Any, Any]", base: "np.ndarray[Any, Any] | None"
) -> tuple[float, float]:
    """Return the 2.5th and the 97.5th percentile of a rate, or of its difference from another."""
    draws = np.random.default_rng(0).multinomial(
        len(sums), np.full(len(sums), 1 / len(sums)), size=DRAWS
    )
    edits, units = (draws @ sums).T
    rates = edits / np.maximum(units, 1)
    if base is not None:
        edits, units = (draws @ base).T
        rates = rates - edits / np.maximum(units, 1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def table(told: dict[str, Any]) -> Table:
    """Return one line a mode and way to decode."""
    shown = Table(
        caption="in percent, and points: edits of words, of characters in Chinese; pooled: all "
        "corpora; difference: from padded training, decoded padded, with its 95 % interval",
        caption_justify="left",
    )
    corpora = sorted({k for m in told.values() for d in m.values() for k in d if "/" in k})
    for column in ("training", "decoded", "seeds", *corpora, "pooled", "difference", "loops"):
        shown.add_column(column, justify="left" if column in ("training", "decoded") else "right")
    for mode, by in told.items():
        for decoded, figures in by.items():
            difference = ""
            if "difference" in figures:
                low, high = figures["difference_interval"]
                difference = (
                    f"{100 * figures['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
                )
            rates = [f"{100 * figures[c]['rate']:.1f}" if c in figures else "" for c in corpora]
            pooled = f"{100 * figures['pooled']['rate']:.1f}"
            cells = [str(figures["seeds"]), *rates, pooled, difference, str(figures["loops"])]
            shown.add_row(mode, decoded, *cells)
    return shown
