"""The evaluations of a run: before training, when due, and of the best model at the end."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.lazy_manifest import ManifestColumns
from data.manifest import Manifest
from data.utterance import Utterance
from eval.evaluate import Evaluator, save
from eval.main_process import run_on_main_process
from eval.probes.run_probes import run_probes
from eval.reference_loss import mean_loss
from eval.report.console_tables import evaluation_table
from eval.report.page import write_page
from eval.report.summary import Evaluation
from eval.subset import stratified
from trainer.best_model import TEXTS, choose, write_losses
from trainer.checkpoint.rotation import set_aside
from trainer.metrics.console import comparison, too_few, verdicts
from trainer.metrics.recorder import NullRecorder, Recorder
from trainer.metrics.wall_clock import WallClock
from trainer.publish.card_facts import facts_of
from trainer.publish.export import describe, export, exported_step, restore
from trainer.publish.uploader import HubUploader
from trainer.report.plots import write_plots
from trainer.report.run_report import write_report
from trainer.state import TrainState

ALL_OF_DEV = "dev-all"  # beside "dev", the clips that models are chosen by


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Scores dev to choose and test to report; keeps the best model in the run's folder."""

    evaluator: Evaluator
    manifest: Manifest
    folder: Path
    recorder: Recorder | NullRecorder
    clock: WallClock
    eval_clips: int | None  # of dev, while training
    uploader: HubUploader

    @property
    def sample(self) -> list[Utterance]:
        """Return the clips of dev that models are chosen by."""
        return stratified(self.manifest.dev, self.eval_clips)

    @property
    def sampled(self) -> bool:
        """Tell whether they are a part of dev only."""
        return len(self.sample) < len(self.manifest.dev)

    @property
    def model_folder(self) -> Path:
        """Return where the best model goes."""
        return self.folder / "model"

    def before(self, state: TrainState) -> None:
        """Score the model before training, on both splits; a run that goes on has done so."""
        self.clock.since = state.step
        if self.evaluator.accelerator.is_main_process:
            self.uploader.start()
        if self.manifest.dev and (few := too_few("dev", len(self.sample))):
            self.recorder.print(f"warning: {few}")
        splits = {"dev": self.sample, "test": self.manifest.test}
        held = {split: utterances for split, utterances in splits.items() if utterances}
        if not state.step and held:
            self._evaluate(state, held)

    def evaluate_dev(self, state: TrainState) -> tuple[float, bool]:
        """Score dev's sample; return the error, and whether this is the best so far."""
        error = self._evaluate(state, {"dev": self.sample})["dev"]
        old, new = (self._at(step, "dev") for step in (state.best_step, state.step))
        with self.clock.on("evaluation"):
            verdict = run_on_main_process(
                self.evaluator.accelerator, lambda: choose(old, new, error, state)
            )
        self.recorder.print(f"update {state.step:>6}  {verdict.told}")
        return error, verdict.better

    def set_aside(self, newer_than: int) -> None:
        """Rename evaluations of a future that a resume from an older checkpoint gives up."""
        for path in sorted((self.folder / "eval").glob("step-*")):
            if int(path.name.removeprefix("step-")) > newer_than:
                set_aside(path)

    def keep_best(self, state: TrainState) -> None:
        """Write the model in hand as the run's model, while other processes wait."""
        run_on_main_process(self.evaluator.accelerator, lambda: self._export(state))
        self.evaluator.accelerator.wait_for_everyone()  # a run may end here: all have heard of it

    def _export(self, state: TrainState) -> None:
        told = f"{self.model_folder} of update {state.step}"
        with self.clock.on("saving"), self.recorder.despite_disk(told):
            whisper, facts = self.evaluator.whisper, self._facts(state)
            export(whisper, self.model_folder, facts, self.uploader.config.precision)
            self.uploader.offer_model()

    def after(self, state: TrainState) -> None:
        """Take the best model back in hand and score it on all of dev, and on test.

        Raises:
            InputError: the disk did not take it when it was found.
        """
        if state.best_error is None:  # nothing was chosen: the last is the model
            self.keep_best(state)
        accelerator = self.evaluator.accelerator
        held = run_on_main_process(accelerator, lambda: exported_step(self.model_folder))
        if held != (state.best_step or state.step):
            raise InputError(
                f"{self.model_folder}: the best model could not be written: free some space, and "
                "go on with --resume=auto, which takes it from its checkpoint"
            )
        restore(self.evaluator.whisper, self.model_folder)
        splits = {"test": self.manifest.test} if self.manifest.test else {}
        if self.sampled:  # the sample that it was chosen by flatters it
            splits = {ALL_OF_DEV: self.manifest.dev, **splits}
        errors = self._evaluate(state, splits, held) if splits else {}
        self._describe(state, errors.get(ALL_OF_DEV, state.best_error))
        if not accelerator.is_main_process:
            return
        with self.recorder.despite_disk(str(self.folder / "report.html")):
            write_report(self.folder, self._facts(state))
            if self.manifest.dev or self.manifest.test:
                write_plots(self.folder)
        if self.manifest.test:
            self.recorder.print(comparison(self.folder, held))
            for line in verdicts(self.folder, held):
                self.recorder.print(line)

    def _describe(self, state: TrainState, error: float | None) -> None:
        """Write the card of what is known at the end, and send it with the model."""
        if self.evaluator.accelerator.is_main_process:
            with self.recorder.despite_disk(str(self.model_folder)):
                describe(self.model_folder, {**self._facts(state), "error": error})
                self.uploader.offer_model()

    def _at(self, step: int, split: str) -> Path:
        return self.folder / "eval" / f"step-{step:08d}" / split

    def _evaluate(
        self, state: TrainState, splits: Mapping[str, Sequence[Utterance]], step: int | None = None
    ) -> dict[str, float]:
        """Score splits, and show what was found; return the error of each.

        Args:
            state: where training stands.
            splits: name → utterances.
            step: the update of the model in hand; None: the last.
        """
        step = state.step if step is None else step
        before = self.clock.spent("evaluation")
        with self.clock.on("evaluation"):
            found = {split: self._score(split, rows, step) for split, rows in splits.items()}
        took = self.clock.spent("evaluation") - before
        self.recorder.record(step, self.clock.shares())
        self.recorder.print(
            f"update {step:>6}  evaluation took {took:.0f} s; so far {self.clock.summary()}"
        )
        rows = [row for each in found.values() for row in each.rows]
        notes = dict.fromkeys(note for each in found.values() for note in each.notes)
        notes |= {"change: since update 0": None} if any(row.change for row in rows) else {}
        self.recorder.print(evaluation_table(rows, "; ".join(notes)))
        for each in found.values():
            for line in each.warnings:
                self.recorder.print(f"warning: {line}")
        if self.evaluator.accelerator.is_main_process:
            with self.recorder.despite_disk(str(self.folder / "report.html")):
                write_report(self.folder, self._facts(state))
        return {split: each.error for split, each in found.items()}

    def _score(self, split: str, utterances: Sequence[Utterance], step: int) -> Evaluation:
        config, short = self.evaluator.config, self.short(split)
        scores, hypotheses = self.evaluator.evaluate(
            utterances, f"{split}, update {step}", true_length=short, with_reference_loss=True
        )
        at, forgets = self._at(step, split), split == "dev" or not self.manifest.dev
        beside = run_probes(self.evaluator, hypotheses, at, forgetting=forgets, true_length=short)
        loss = mean_loss(h.reference_loss for h in hypotheses)
        metrics = scores.metrics() | beside.metrics() | ({} if loss is None else {"loss": loss})
        self.recorder.record(step, {f"{split}/{name}": value for name, value in metrics.items()})
        facts: dict[str, Any] = {"step": step, "max_length": config.max_length}
        facts |= {"beams": config.num_beams, "true_length": short, "loss": loss}
        facts |= {"meters": beside.hallucination.to_json()}
        first = self._first(split, step)
        found = Evaluation.of(split, {**facts, **scores.to_json()}, beside, first)
        if self.evaluator.accelerator.is_main_process:
            with self.recorder.despite_disk(str(at)):
                (at / TEXTS).unlink(missing_ok=True)  # a full disk shall leave no other model's
                beside.save(at, step)
                save(at, scores, hypotheses, **facts)
                write_losses(at, hypotheses)
                self._show(at, split, step)
        return found

    def _first(self, split: str, step: int) -> dict[str, Any]:
        """Return the scores.json of a split before training, or nothing where there is none."""
        path = self._at(0, split) / "scores.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if step and path.is_file() else {}

    def _show(self, at: Path, split: str, step: int) -> None:
        """Make an evaluation's page, beside what the model made of it before training."""
        config, first = self.evaluator.config, self.folder / "eval" / f"step-{0:08d}" / split
        before = first if step and (first / "scores.json").is_file() else None
        try:
            write_page(at, before, audio=config.audio, embed_clips=config.embed_clips)
        except InputError as error:  # what an earlier version wrote must not end a run
            self.recorder.print(f"WARNING: no page of {at}: {error}")

    def short(self, split: str) -> bool:
        """Tell whether to decode at true length: dev alike at every update, and test never.

        Stock pipelines decode padded to 30 s, so what is reported is padded; what chooses may be
        quick. A model that was never trained on true lengths needs the states of silence for them
        (docs/ablation.md): without these dev is padded as well.
        """
        asked = self.evaluator.config.pad
        if asked != "auto" or self.evaluator.data.pad != "bucket" or split == "test":
            return asked == "bucket"
        return self.evaluator.silence or self._was_short()

    def _was_short(self) -> bool:
        """Tell whether this run has decoded dev at true length so far, as earlier versions did.

        The best model's figures and the next one's have to be of one decoding.
        """

        def asked() -> bool:
            paths = sorted((self.folder / "eval").glob("step-*/dev/scores.json"))
            told = [json.loads(path.read_text(encoding="utf-8")) for path in paths[-1:]]
            return any(each["step"] and each.get("true_length") for each in told)

        return run_on_main_process(self.evaluator.accelerator, asked)

    def _facts(self, state: TrainState) -> dict[str, Any]:
        return facts_of(
            self.evaluator, ManifestColumns.from_utterances(self.manifest.train), self.clock, state
        )
