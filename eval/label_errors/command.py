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
from eval.label_errors.excess_loss import TranscriptLoss, costs
from eval.report.page import write_page
from eval.whisper import load_whisper

FOLDER = "suspects"  # in the run's


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelErrorsConfig:
    """List clips with a large training loss: likely wrong transcripts."""

    run: tyro.conf.Positional[str]  # The run's folder.
    max_clips: int = 50  # Clips to list at most.

    def __post_init__(self) -> None:
        """Refuse values that could not work.

        Raises:
            InputError: a number is out of its range.
        """
        if self.max_clips < 1:
            raise InputError(f"max_clips must be at least 1, got {self.max_clips}")


def find_label_errors(config: LabelErrorsConfig) -> None:
    """Rank, transcribe with the run's own model, and show.

    Raises:
        InputError: the folder is not a run's, or one that has no model yet.
    """
    run = Path(config.run)
    ranked = costs(run)[: config.max_clips]
    if not (run / "model" / "config.json").is_file():
        raise InputError(f"{run / 'model'}: no model yet: a run has one after its first evaluation")
    utterances = heard_by(run, ranked)
    accelerator = Accelerator()
    whisper = load_whisper(str(run / "model"))
    whisper.model.to(accelerator.device)
    asked = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    model = current_names({f"model.{key}": value for key, value in asked["model"].items()})
    evaluator = Evaluator(
        accelerator=accelerator,
        whisper=whisper,
        data=DataConfig(),
        config=EvalConfig(),
        silence=model.get("model.silence_states", True),
    )
    short = at_true_length(asked)
    scores, hypotheses = evaluator.evaluate(utterances, "suspects", true_length=short)
    folder = run / FOLDER
    save(folder, scores, hypotheses, model=str(run / "model"), most=config.max_clips)
    rows = with_costs(folder / "utterances.jsonl", ranked)
    Console(highlight=False).print(table(rows, str(run)))
    print(f"to be heard: {write_page(folder)}")


def heard_by(run: Path, ranked: Sequence[TranscriptLoss]) -> list[Utterance]:
    """Return the utterances of some clips, in their order.

    Raises:
        InputError: the run's manifest has none of them.
    """
    wanted = {cost.id for cost in ranked}
    train = Manifest.read(run / "manifest.jsonl").train
    known = {u.id: u for u in train if u.id in wanted}
    if not known:
        raise InputError(
            f"{run / 'manifest.jsonl'}: has none of the clips with the highest loss: they came "
            "from a stream, which keeps no audio"
        )
    return [known[cost.id] for cost in ranked if cost.id in known]


def at_true_length(told: dict[str, Any]) -> bool:
    """Tell whether a run of this config scored clips without padding them to 30 s."""
    asked: str = told["eval"]["pad"]
    return asked == "bucket" or (asked == "auto" and told["data"]["pad"] == "bucket")


def with_costs(path: Path, ranked: Sequence[TranscriptLoss]) -> list[dict[str, Any]]:
    """Add to the rows of utterances.jsonl what training knew of them; return them."""
    known = {cost.id: cost for cost in ranked}
    rows = [
        {**row, "loss": cost.loss, "excess": cost.excess, "hearings": cost.hearings}
        for row in read_jsonl(path)
        for cost in [known[row["id"]]]
    ]
    write_jsonl(path, rows)
    return rows


def table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """Return what a person looks through, the most unusual first."""
    shown = Table(title=f"{title}: the transcripts that cost the most", title_justify="left")
    shown.add_column("excess", justify="right", no_wrap=True)
    shown.add_column("loss", justify="right", no_wrap=True)
    shown.add_column("reference, and what the model hears", overflow="fold")
    shown.add_column("audio", overflow="fold")
    for row in rows:
        texts = f"{row['reference']}\n{row['hypothesis']}"
        shown.add_row(f"{row['excess']:.1f}", f"{row['loss']:.2f}", texts, row["audio"])
    shown.caption = (
        "loss: nats a token in training, mean over epochs; excess: above clips of like length, in "
        "standard deviations"
    )
    return shown
