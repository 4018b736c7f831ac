"""Format a plan for the console: tables and warnings."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data.log_mel import FRAMES_PER_SECOND
from trainer.metrics.plan_check import clock

Section = dict[str, Any]  # the plan or one of its sections, as in the plan's JSON file


def show(plan: Section, path: Path) -> None:
    """Print a plan, and the file that it was written to."""
    console = Console(highlight=False)
    console.print(overview(plan))
    console.print(lengths(plan["memory"]))
    for warning in warnings(plan):
        console.print(f"warning: {warning}", soft_wrap=True)
    console.print(f"written to {path}; the run compares its speed with it", soft_wrap=True)


def overview(plan: Section) -> Table:
    """Return a table with one line for each section."""
    table = Table.grid(padding=(0, 2))
    for name, line in {
        "speech": speech(plan["speech"]),
        "left out": left_out(plan["speech"]["left_out"]),
        "updates": updates(plan["updates"]),
        "padding": padding(plan["updates"]),
        "shapes": shapes(plan["updates"]),
        "speed": speed(plan),
        "time": time(plan["seconds"]),
        "disk": disk(plan["disk"]),
    }.items():
        table.add_row(name, line)
    return table


def speech(section: Section) -> str:
    """Format clips and hours of each split."""
    return "; ".join(
        f"{split} {section[split]['clips']:,} clips, {section[split]['hours']:.2f} h"
        for split in ("train", "dev", "test")
        if section[split]["clips"]
    )


def left_out(section: Section) -> str:
    """Format how many clips were left out, by reason and split."""
    counts = [
        f"{count:,} {reason} ({split})"
        for split, reasons in section.items()
        for reason, count in reasons.items()
    ]
    return ", ".join(counts) or "nothing"


def updates(section: Section) -> str:
    """Format the number of updates, and the average content of one."""
    return (
        f"{section['all']:,} in all, {section['an_epoch']:,} per epoch, from "
        f"{section['buckets']} buckets; on average {section['clips']:.1f} clips, "
        f"{section['audio_seconds']:.1f} s of speech and {section['passes']:.1f} passes each"
    )


def padding(section: Section) -> str:
    """Format the shares of padding."""
    encoder, decoder = section["encoder_padding"], section["decoder_padding"]
    return f"{encoder:.1%} of the encoder's positions, {decoder:.1%} of the decoder's"


def shapes(section: Section) -> str:
    """Format the number of distinct shapes of the forward passes."""
    return f"{section['shapes']:,} distinct (rows, frames, tokens) of forward passes"


def speed(plan: Section) -> str:
    """Format the speed of training."""
    count, seconds = plan["updates"], plan["seconds"]["training"] / plan["updates"]["all"]
    return (
        f"{3600 / seconds:,.0f} updates/h, {count['clips'] / seconds:.1f} clips/s, "
        f"{count['audio_seconds'] / seconds:.1f} audio-s/s"
    )


def time(section: Section) -> str:
    """Format the duration of the run, and when it would end if started now."""
    training, scoring = section["training"], section["scoring"]
    evaluation = scoring["before"] + scoring["after"]
    each = f" (dev {duration(scoring['dev'])} each time)" if scoring["dev"] else ""
    return (
        f"training {duration(training)}, evaluation {duration(evaluation)}{each}: "
        f"started now, it ends at {clock(training + evaluation)}"
    )


def disk(section: Section) -> str:
    """Format the disk space that is needed and free."""
    keys = ("checkpoint", "model", "needed", "free")
    sizes = {key: f"{section[key] / 1e9:,.2f} GB" for key in keys}
    return (
        f"{section['kept']} checkpoints of {sizes['checkpoint']}, model {sizes['model']}: "
        f"{sizes['needed']} are needed to write the next; {sizes['free']} are free"
    )


def lengths(section: Section) -> Table:
    """Return a table of the largest pass of each range of lengths, and its memory."""
    table = Table(
        title=f"memory, {section['source']}", title_justify="left", caption_justify="left"
    )
    if section["scoring"]:
        table.caption = f"evaluation: {section['scoring'] / 1e9:.1f} GB"
    for column in ("padded to, s", "passes", "largest: clips", "padded audio, s", "tokens", "GB"):
        table.add_column(column, justify="right")
    for row in section["lengths"]:
        table.add_row(
            f"{row['from_seconds']:.1f} to {row['to_seconds']:.1f}",
            f"{row['passes']:,}",
            str(row["rows"]),
            f"{row['rows'] * row['frames'] / FRAMES_PER_SECOND:.0f}",
            str(row["tokens"]),
            f"{row['bytes'] / 1e9:.1f}",
        )
    return table


def warnings(plan: Section) -> list[str]:
    """Return warnings about data loading, memory and disk space, each with a remedy."""
    messages, memory, disk = [], plan["memory"], plan["disk"]
    updates, decoded = plan["updates"], plan["audio_seconds_decoded_a_second"]
    trained = updates["audio_seconds"] * updates["all"] / plan["seconds"]["training"]  # a second
    if trained > 0.99 * decoded:
        messages.append(
            f"data loading limits the speed: workers decode {decoded:.0f} audio-s/s: raise "
            "data.workers"
        )
    peak = max(row["bytes"] for row in memory["lengths"])
    if peak > memory["bytes"]:
        messages.append(
            f"a pass needs {peak / 1e9:.1f} GB, more than the {memory['bytes'] / 1e9:.1f} GB of "
            "this device: set data.max_seconds_per_forward lower, or find what fits with "
            "python -m trainer find-batch-size"
        )
    if disk["needed"] > disk["free"]:
        messages.append("the disk is too small: free some space, or set checkpoint.keep lower")
    return messages


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
