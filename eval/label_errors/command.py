"""`python -m eval label-errors RUN`: the training clips whose transcripts have the largest loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
import yaml
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from data.atomic_files import read_jsonl, write_jsonl
from data.config import DataConfig
from data.config_parser import current_names
from data.errors import InputError
from data.manifest import Manifest
from data.utterance import Utterance
from eval.config import EvalConfig
from eval.evaluate import Evaluator, save
from eval.label_errors.excess_loss import TranscriptLoss, transcript_losses
from eval.report.page import write_page
from eval.whisper import load_whisper

FOLDER = "suspects"  # in the run's folder


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelErrorsConfig:
    """List clips with a large training loss: likely wrong transcripts."""

    run: tyro.conf.Positional[str]  # The run's folder.
    max_clips: int = 50  # Clips to list at most.

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a number is out of its range.
        """
        if self.max_clips < 1:
            raise InputError(f"max_clips must be at least 1, got {self.max_clips}")


def find_label_errors(config: LabelErrorsConfig) -> None:
    """Rank the clips by excess loss, transcribe them with the run's model, and show them.

    Raises:
        InputError: the folder is not a run, or the run has no model yet.
    """
    run = Path(config.run)
    ranked = transcript_losses(run)[: config.max_clips]
    if not (run / "model" / "config.json").is_file():
        raise InputError(
            f"{run / 'model'}: no model yet: a run writes one after its first evaluation"
        )
    utterances = read_utterances(run, ranked)
    accelerator = Accelerator()
    whisper = load_whisper(str(run / "model"))
    whisper.model.to(accelerator.device)
    run_config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    model = current_names({f"model.{key}": value for key, value in run_config["model"].items()})
    evaluator = Evaluator(
        accelerator=accelerator,
        whisper=whisper,
        data=DataConfig(),
        config=EvalConfig(),
        silence=model.get("model.silence_states", True),
    )
    true_length = uses_true_length(run_config)
    scores, hypotheses = evaluator.evaluate(utterances, "suspects", true_length=true_length)
    folder = run / FOLDER
    save(folder, scores, hypotheses, model=str(run / "model"), most=config.max_clips)
    rows = add_losses(folder / "utterances.jsonl", ranked)
    Console(highlight=False).print(table(rows, str(run)))
    print(f"report to listen to: {write_page(folder)}")


def read_utterances(run: Path, ranked: Sequence[TranscriptLoss]) -> list[Utterance]:
    """Read the utterances of ranked clips from the run's manifest, in the order of the ranking.

    Raises:
        InputError: the manifest has none of the clips.
    """
    ids = {clip.id for clip in ranked}
    train = Manifest.read(run / "manifest.jsonl").train
    by_id = {u.id: u for u in train if u.id in ids}
    if not by_id:
        raise InputError(
            f"{run / 'manifest.jsonl'}: has none of the clips with the highest loss: they came "
            "from a stream, whose audio is not kept"
        )
    return [by_id[clip.id] for clip in ranked if clip.id in by_id]


def uses_true_length(run_config: dict[str, Any]) -> bool:
    """Return whether a run with this config scores clips without padding them to 30 s."""
    pad: str = run_config["eval"]["pad"]
    return pad == "bucket" or (pad == "auto" and run_config["data"]["pad"] == "bucket")


def add_losses(path: Path, ranked: Sequence[TranscriptLoss]) -> list[dict[str, Any]]:
    """Add the training losses to the rows of utterances.jsonl, and return the rows."""
    by_id = {clip.id: clip for clip in ranked}
    rows = [
        {**row, "loss": clip.loss, "excess": clip.excess, "hearings": clip.passes}
        for row in read_jsonl(path)
        for clip in [by_id[row["id"]]]
    ]
    write_jsonl(path, rows)
    return rows


def table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """Return the table for the console, the highest excess loss first."""
    shown = Table(title=f"{title}: transcripts with the highest excess loss", title_justify="left")
    shown.add_column("excess", justify="right", no_wrap=True)
    shown.add_column("loss", justify="right", no_wrap=True)
    shown.add_column("reference and hypothesis", overflow="fold")
    shown.add_column("audio", overflow="fold")
    for row in rows:
        texts = f"{row['reference']}\n{row['hypothesis']}"
        shown.add_row(f"{row['excess']:.1f}", f"{row['loss']:.2f}", texts, row["audio"])
    shown.caption = (
        "loss: nats per token in training, mean over epochs; excess: over clips of similar length, "
        "in standard deviations"
    )
    return shown
