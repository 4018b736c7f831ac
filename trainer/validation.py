"""Validation: evaluates dev and test during a run, and exports the best model."""

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
from trainer.best_model import UTTERANCES, compare_with_best, write_losses
from trainer.checkpoint.rotation import set_aside
from trainer.metrics.console import comparison_table, too_few_clips_warning, verdicts
from trainer.metrics.recorder import NullRecorder, Recorder
from trainer.metrics.wall_clock import WallClock
from trainer.publish.card_facts import facts_of
from trainer.publish.export import describe, export, exported_step, restore
from trainer.publish.uploader import HubUploader
from trainer.report.plots import write_plots
from trainer.report.run_report import write_report
from trainer.state import TrainState

ALL_OF_DEV = "dev-all"  # name of the whole split; "dev" is the sample that chooses the best model


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Evaluates dev to choose the best model, which it exports, and test to report its score."""

    evaluator: Evaluator
    manifest: Manifest
    folder: Path
    recorder: Recorder | NullRecorder
    clock: WallClock
    eval_clips: int | None  # clips of dev in an evaluation during training; None: all
    uploader: HubUploader

    @property
    def sample(self) -> list[Utterance]:
        """Return the clips of dev that choose the best model."""
        return stratified(self.manifest.dev, self.eval_clips)

    @property
    def is_sampled(self) -> bool:
        """Return whether the sample is only a part of dev."""
        return len(self.sample) < len(self.manifest.dev)

    @property
    def model_folder(self) -> Path:
        """Return the folder that the best model is exported to."""
        return self.folder / "model"

    def before_training(self, state: TrainState) -> None:
        """Evaluate the model on dev and test, unless the run was resumed."""
        self.clock.start_step = state.step
        if self.evaluator.accelerator.is_main_process:
            self.uploader.start()
        if self.manifest.dev and (few := too_few_clips_warning("dev", len(self.sample))):
            self.recorder.print(f"warning: {few}")
        splits = {"dev": self.sample, "test": self.manifest.test}
        splits = {split: utterances for split, utterances in splits.items() if utterances}
        if not state.step and splits:
            self._evaluate(state, splits)

    def evaluate_dev(self, state: TrainState) -> tuple[float, bool]:
        """Evaluate the sample of dev; return its error, and whether it is the best so far."""
        error = self._evaluate(state, {"dev": self.sample})["dev"]
        best, new = (self._eval_folder(step, "dev") for step in (state.best_step, state.step))
        with self.clock.measure("evaluation"):
            verdict = run_on_main_process(
                self.evaluator.accelerator, lambda: compare_with_best(best, new, error, state)
            )
        self.recorder.print(f"update {state.step:>6}  {verdict.reason}")
        return error, verdict.better

    def set_aside(self, newer_than: int) -> None:
        """Rename the evaluations of later updates, when a run resumes from an older checkpoint."""
        for path in sorted((self.folder / "eval").glob("step-*")):
            if int(path.name.removeprefix("step-")) > newer_than:
                set_aside(path)

    def export_best(self, state: TrainState) -> None:
        """Export the current model to model/, while the other processes wait."""
        run_on_main_process(self.evaluator.accelerator, lambda: self._export(state))
        self.evaluator.accelerator.wait_for_everyone()  # the main process may exit next

    def _export(self, state: TrainState) -> None:
        what = f"{self.model_folder} of update {state.step}"
        with self.clock.measure("saving"), self.recorder.tolerate_disk_errors(what):
            whisper, facts = self.evaluator.whisper, self._facts(state)
            export(whisper, self.model_folder, facts, self.uploader.config.precision)
            self.uploader.offer_model()

    def after_training(self, state: TrainState) -> None:
        """Load the best model, evaluate it on all of dev and on test, and write the reports.

        Raises:
            InputError: a full disk prevented its export.
        """
        if state.best_error is None:  # without dev the last model is exported
            self.export_best(state)
        accelerator = self.evaluator.accelerator
        step = run_on_main_process(accelerator, lambda: exported_step(self.model_folder))
        if step != (state.best_step or state.step):
            raise InputError(
                f"{self.model_folder}: the best model could not be written: free some disk space, "
                "and resume with --resume=auto, which exports it from its checkpoint"
            )
        restore(self.evaluator.whisper, self.model_folder)
        splits = {"test": self.manifest.test} if self.manifest.test else {}
        if self.is_sampled:  # the score on the sample that chose the model is biased
            splits = {ALL_OF_DEV: self.manifest.dev, **splits}
        errors = self._evaluate(state, splits, step) if splits else {}
        self._describe(state, errors.get(ALL_OF_DEV, state.best_error))
        if not accelerator.is_main_process:
            return
        with self.recorder.tolerate_disk_errors(str(self.folder / "report.html")):
            write_report(self.folder, self._facts(state))
            if self.manifest.dev or self.manifest.test:
                write_plots(self.folder)
        if self.manifest.test:
            self.recorder.print(comparison_table(self.folder, step))
            for line in verdicts(self.folder, step):
                self.recorder.print(line)

    def _describe(self, state: TrainState, error: float | None) -> None:
        """Write the final model card, and upload it with the model."""
        if self.evaluator.accelerator.is_main_process:
            with self.recorder.tolerate_disk_errors(str(self.model_folder)):
                describe(self.model_folder, {**self._facts(state), "error": error})
                self.uploader.offer_model()

    def _eval_folder(self, step: int, split: str) -> Path:
        return self.folder / "eval" / f"step-{step:08d}" / split

    def _evaluate(
        self, state: TrainState, splits: Mapping[str, Sequence[Utterance]], step: int | None = None
    ) -> dict[str, float]:
        """Evaluate splits, and print the results; return the error of each split.

        Args:
            state: progress of training.
            splits: name → utterances.
            step: update of the current model; None: the last one.
        """
        step = state.step if step is None else step
        spent_before = self.clock.seconds_of("evaluation")
        with self.clock.measure("evaluation"):
            evaluations = {
                split: self._evaluate_split(split, utterances, step)
                for split, utterances in splits.items()
            }
        seconds = self.clock.seconds_of("evaluation") - spent_before
        self.recorder.record(step, self.clock.shares())
        self.recorder.print(
            f"update {step:>6}  evaluation took {seconds:.0f} s; so far {self.clock.summary()}"
        )
        rows = [row for evaluation in evaluations.values() for row in evaluation.rows]
        notes = dict.fromkeys(note for e in evaluations.values() for note in e.notes)
        notes |= {"change: since update 0": None} if any(row.change for row in rows) else {}
        self.recorder.print(evaluation_table(rows, "; ".join(notes)))
        for evaluation in evaluations.values():
            for warning in evaluation.warnings:
                self.recorder.print(f"warning: {warning}")
        if self.evaluator.accelerator.is_main_process:
            with self.recorder.tolerate_disk_errors(str(self.folder / "report.html")):
                write_report(self.folder, self._facts(state))
        return {split: evaluation.error for split, evaluation in evaluations.items()}

    def _evaluate_split(self, split: str, utterances: Sequence[Utterance], step: int) -> Evaluation:
        config, true_length = self.evaluator.config, self.decodes_at_true_length(split)
        scores, hypotheses = self.evaluator.evaluate(
            utterances, f"{split}, update {step}", true_length=true_length, with_reference_loss=True
        )
        folder, forgetting = self._eval_folder(step, split), split == "dev" or not self.manifest.dev
        probes = run_probes(
            self.evaluator, hypotheses, folder, forgetting=forgetting, true_length=true_length
        )
        loss = mean_loss(h.reference_loss for h in hypotheses)
        metrics = scores.metrics() | probes.metrics() | ({} if loss is None else {"loss": loss})
        self.recorder.record(step, {f"{split}/{name}": value for name, value in metrics.items()})
        facts: dict[str, Any] = {"step": step, "max_length": config.max_length}
        facts |= {"beams": config.num_beams, "true_length": true_length, "loss": loss}
        facts |= {"meters": probes.hallucination.to_json()}
        before = self._scores_before_training(split, step)
        evaluation = Evaluation.of(split, {**facts, **scores.to_json()}, probes, before)
        if self.evaluator.accelerator.is_main_process:
            with self.recorder.tolerate_disk_errors(str(folder)):
                # of another model, if this folder was written before; a full disk must not leave it
                (folder / UTTERANCES).unlink(missing_ok=True)
                probes.save(folder, step)
                save(folder, scores, hypotheses, **facts)
                write_losses(folder, hypotheses)
                self._write_page(folder, split, step)
        return evaluation

    def _scores_before_training(self, split: str, step: int) -> dict[str, Any]:
        """Return scores.json of update 0, or an empty dict if there is none."""
        path = self._eval_folder(0, split) / "scores.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if step and path.is_file() else {}

    def _write_page(self, folder: Path, split: str, step: int) -> None:
        """Write the report of an evaluation, with the hypotheses before training for comparison."""
        config, first = self.evaluator.config, self._eval_folder(0, split)
        before = first if step and (first / "scores.json").is_file() else None
        try:
            write_page(folder, before, audio=config.audio, embed_clips=config.embed_clips)
        except InputError as error:  # files of an earlier version must not end a run
            self.recorder.print(f"WARNING: no page of {folder}: {error}")

    def decodes_at_true_length(self, split: str) -> bool:
        """Return whether clips of a split are decoded at true length instead of padded to 30 s.

        With eval.pad=auto test is padded, as in stock pipelines, and dev is decoded at true length,
        which is faster, if the model has the silence states that this needs (docs/ablation.md). All
        evaluations of dev in a run are decoded in the same way, so that they can be compared.
        """
        pad = self.evaluator.config.pad
        if pad != "auto" or self.evaluator.data.pad != "bucket" or split == "test":
            return pad == "bucket"
        return self.evaluator.silence or self._dev_was_at_true_length()

    def _dev_was_at_true_length(self) -> bool:
        """Return whether the last evaluation of dev in this run was at true length.

        Earlier versions did so without silence states.
        """

        def read() -> bool:
            paths = sorted((self.folder / "eval").glob("step-*/dev/scores.json"))
            last = [json.loads(path.read_text(encoding="utf-8")) for path in paths[-1:]]
            return any(scores["step"] and scores.get("true_length") for scores in last)

        return run_on_main_process(self.evaluator.accelerator, read)

    def _facts(self, state: TrainState) -> dict[str, Any]:
        return facts_of(
            self.evaluator, ManifestColumns.from_utterances(self.manifest.train), self.clock, state
        )
