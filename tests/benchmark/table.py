"""The comparison's figures as JSON, and as one table."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from figures import Figures, median
from measure import Task, surroundings
from rich.table import Table

Show = Callable[[float], str]


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{value:.1%}"


def _size(value: float) -> str:
    return f"{value / 1e9:.2f} GB" if value >= 1e7 else f"{value / 1e6:.2f} MB"


# label, figure, how it is shown, whether a ratio says something
ROWS: tuple[tuple[str, str, Show, bool], ...] = (
    ("computing features, s", "preparation_seconds", _number, False),
    ("read beside the corpus", "disk_bytes", _size, False),
    ("loading libraries and model, s", "loading_seconds", _number, False),
    ("from there to first update, s", "first_update_seconds", _number, False),
    ("updates/s", "updates_per_second", _number, True),
    ("clips/s", "clips_per_second", _number, True),
    ("audio-s/s", "audio_seconds_per_second", _number, True),
    ("MFU, useful FLOPs", "mfu", _share, True),
    ("encoder padding", "encoder_padding", _share, False),
    ("decoder padding", "decoder_padding", _share, False),
    ("waiting for data", "data_wait", _share, False),
    ("peak host memory", "tree_bytes", _size, True),
    ("  largest process, with files", "process_bytes", _size, True),
    ("  with evaluation", "evaluation_tree_bytes", _size, True),
    ("peak GPU memory", "device_bytes", _size, True),
    ("evaluation, clips/s", "evaluation_clips_per_second", _number, True),
    ("  at true length, clips/s", "short_clips_per_second", _number, True),
    ("WER before training", "wer_before", _share, False),
    ("WER after as many clips", "wer", _share, False),
    ("CER after as many clips", "cer", _share, False),
    ("WER at true length", "short_wer", _share, False),
    ("CER at true length", "short_cer", _share, False),
    ("updates in the same time", "same_time_updates", _number, True),
    ("WER after the same time", "same_time_wer", _share, False),
    ("CER after the same time", "same_time_cer", _share, False),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One turn of both sides."""

    peer: Figures
    ours: Figures
    same_texts: int | None = None  # before training: clips in which both sides heard the same


def report(task: Task, rounds: Sequence[Round]) -> dict[str, Any]:
    """Return all that was found: medians, and every round."""
    peer, own = median([r.peer for r in rounds]), median([r.ours for r in rounds])
    # a CPU's peak is measured at every start, and may be disturbed
    peak = max(r.ours.peak_flops or 0 for r in rounds)
    told: dict[str, Any] = {
        "surroundings": surroundings(),
        "knobs": asdict(task.knobs) | {"precision": task.knobs.numbers},
        "train_clips": len(task.train),
        "train_seconds_mean": sum(u.seconds for u in task.train) / len(task.train),
        "test_clips": len(task.test),
        "ceiling_of_the_corpus": task.ceiling,
        "peak_flops": peak,
        "seq2seq_trainer": asdict(peer) | {"mfu": (peer.useful_flops or 0) / peak},
        "whisper_loop": asdict(own) | {"mfu": (own.useful_flops or 0) / peak},
        "rounds": [asdict(each) for each in rounds],
    }
    pairs = [(r.ours.clips_per_second or 0) / (r.peer.clips_per_second or 1) for r in rounds]
    shares = [pair / (r.ours.ceiling or 1) for pair, r in zip(pairs, rounds, strict=True)]
    own_shares = [p / (r.ours.own_ceiling or 1) for p, r in zip(pairs, rounds, strict=True)]
    told |= {
        "clips_ratio": statistics.median(pairs),
        "share_of_ceiling": statistics.median(shares),
        "share_of_own_ceiling": statistics.median(own_shares),
    }
    return told


def table(told: dict[str, Any]) -> Table:
    """Return both sides' medians beside each other."""
    peer, own = told["seq2seq_trainer"], told["whisper_loop"]
    where, knobs = told["surroundings"], told["knobs"]
    shown = Table(
        title=f"{Path(knobs['model'] or knobs['synthetic']).name}: {told['train_clips']:,} clips "
        f"of {told['train_seconds_mean']:.1f} s, {knobs['clips']} an update; "
        f"rounds: {len(told['rounds'])}",
        title_justify="left",
        caption_justify="left",
    )
    shown.add_column("")
    for name in ("Seq2SeqTrainer", "whisper-loop", "ratio"):
        shown.add_column(name, justify="right", no_wrap=True)
    for label, name, show, compared in ROWS:
        values = peer[name], own[name]
        if values != (None, None):
            cells = ["" if value is None else show(value) for value in values]
            base = peer["evaluation_clips_per_second"] if name.startswith("short") else values[0]
            ratio = f"{values[1] / base:.2f}" if compared and base and values[1] else ""
            shown.add_row(label, *cells, ratio)
    same = [each["same_texts"] for each in told["rounds"] if each["same_texts"] is not None]
    heard = f"\nSame text before training: {min(same, default=0)} of {told['test_clips']} clips."
    shown.caption = (
        f"transformers {where['transformers']}, torch {where['torch']}, {where['gpu'] or 'CPU'}, "
        f"{knobs['threads']} threads, {knobs['precision']}; "
        f"{' '.join(['data.pad=' + knobs['pad'], *knobs['ours']])}.\n"
        f"FLOP ceiling: {told['ceiling_of_the_corpus']:.2f} of the corpus, {own['ceiling']:.2f} of "
        f"the timed clips; reached: {told['share_of_ceiling']:.0%} of it. With its padding: "
        f"{own['own_ceiling']:.2f}, {told['share_of_own_ceiling']:.0%}.{heard if same else ''}"
    )
    return shown
