"""What a plan tells a person."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data.log_mel import FRAMES_PER_SECOND
from trainer.metrics.plan_check import clock

Told = dict[str, Any]  # a section of the plan, as its file has it


def show(told: Told, path: Path) -> None:
    """Print a plan, and where it is kept."""
    console = Console(highlight=False)
    console.print(overview(told))
    console.print(lengths(told["memory"]))
    for warning in warnings(told):
        console.print(f"warning: {warning}", soft_wrap=True)
    console.print(f"kept in {path}; the run compares itself with it", soft_wrap=True)


def overview(told: Told) -> Table:
    """Return a line on each thing that a person may ask."""
    table = Table.grid(padding=(0, 2))
    for name, line in {
        "speech": speech(told["speech"]),
        "left out": left_out(told["speech"]["left_out"]),
        "updates": updates(told["updates"]),
        "padding": padding(told["updates"]),
        "speed": speed(told),
        "time": time(told["seconds"]),
        "disk": disk(told["disk"]),
    }.items():
        table.add_row(name, line)
    return table


def speech(told: Told) -> str:
    """Return clips and hours of each split."""
    return "; ".join(
        f"{split} {told[split]['clips']:,} clips, {told[split]['hours']:.2f} h"
        for split in ("train", "dev", "test")
        if told[split]["clips"]
    )


def left_out(told: Told) -> str:
    """Return how many clips were left out, and why."""
    counts = [f"{n:,} {why} ({split})" for split, each in told.items() for why, n in each.items()]
    return ", ".join(counts) or "nothing"


def updates(told: Told) -> str:
    """Return how many there are, and what one holds."""
    return (
        f"{told['all']:,} in all, {told['an_epoch']:,} an epoch, from {told['buckets']} buckets; "
        f"one holds {told['clips']:.1f} clips, {told['audio_seconds']:.1f} s of speech, in "
        f"{told['passes']:.1f} passes"
    )


def padding(told: Told) -> str:
    """Return the shares of padding."""
    encoder, decoder = told["encoder_padding"], told["decoder_padding"]
    return f"{encoder:.1%} of the encoder's positions, {decoder:.1%} of the decoder's"


def speed(told: Told) -> str:
    """Return how fast training is."""
    count, seconds = told["updates"], told["seconds"]["training"] / told["updates"]["all"]
    return (
        f"{3600 / seconds:,.0f} updates/h, {count['clips'] / seconds:.1f} clips/s, "
        f"{count['audio_seconds'] / seconds:.1f} audio-s/s"
    )


def time(told: Told) -> str:
    """Return how long the run takes, and when it ends."""
    training, scoring = told["training"], told["scoring"]
    evaluation = scoring["before"] + scoring["after"]
    each = f" (dev {duration(scoring['dev'])} each time)" if scoring["dev"] else ""
    return (
        f"training {duration(training)}, evaluation {duration(evaluation)}{each}: "
        f"begun now, it ends at {clock(training + evaluation)}"
    )


def disk(told: Told) -> str:
    """Return what will be written."""
    sizes = {key: f"{told[key] / 1e9:,.2f} GB" for key in ("checkpoint", "model", "needed", "free")}
    return (
        f"{told['kept']} checkpoints of {sizes['checkpoint']}, model {sizes['model']}: "
        f"{sizes['needed']} with room to write the next; {sizes['free']} are free"
    )


def lengths(told: Told) -> Table:
    """Return the largest pass of each length, and its memory."""
    table = Table(title=f"memory, {told['source']}", title_justify="left", caption_justify="left")
    if told["scoring"]:
        table.caption = f"evaluation: {told['scoring'] / 1e9:.1f} GB"
    for column in ("padded to, s", "passes", "largest: clips", "padded audio, s", "tokens", "GB"):
        table.add_column(column, justify="right")
    for each in told["lengths"]:
        table.add_row(
            f"{each['from_seconds']:.1f} to {each['to_seconds']:.1f}",
            f"{each['passes']:,}",
            str(each["rows"]),
            f"{each['rows'] * each['frames'] / FRAMES_PER_SECOND:.0f}",
            str(each["tokens"]),
            f"{each['bytes'] / 1e9:.1f}",
        )
    return table


def warnings(told: Told) -> list[str]:
    """Return what will not go well, and what to change."""
    said, memory, disk = [], told["memory"], told["disk"]
    updates, decoded = told["updates"], told["audio_seconds_decoded_a_second"]
    heard = updates["audio_seconds"] * updates["all"] / told["seconds"]["training"]  # a second
    if heard > 0.99 * decoded:
        said.append(f"workers decode {decoded:.0f} audio-s/s, and no more: raise data.workers")
    most = max(each["bytes"] for each in memory["lengths"])
    if most > memory["bytes"]:
        said.append(
            f"a pass takes {most / 1e9:.1f} GB, more than the {memory['bytes'] / 1e9:.1f} GB there "
            "are: set data.max_seconds_per_forward lower, or let python -m trainer "
            "find-batch-size find what fits"
        )
    if disk["needed"] > disk["free"]:
        said.append("the disk is too small: free some space, or set checkpoint.keep lower")
    return said


def duration(seconds: float) -> str:
    """Return seconds in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
