"""The other side: the well-known guide's script, brought up to transformers 5.

    python tests/benchmark/peer.py FACTS.json

FACTS.json says what to do and where to write what was found; compare.py writes it. SDPA is on and
workers load data, as its users have learnt to ask for; peer_data.py has the rest.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

import data  # noqa: F401 - makes torchaudio importable; transformers imports it

# isort: split

import torch
from peer_data import IGNORE_INDEX, Collator, Facts, load_processor, prepare
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    WhisperForConditionalGeneration,
)

LOADED, FIRST_UPDATE = "libraries and model are loaded", "the first update is made"


def main() -> None:
    """Prepare, or train and evaluate."""
    facts = Facts(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    processor = load_processor(facts.model, facts.language)
    if facts.do == "prepare":
        started = time.perf_counter()
        prepare(facts, processor)
        found = {"seconds": time.perf_counter() - started}
    else:
        found = train(facts, processor)
    Path(facts.out).write_text(json.dumps(found), encoding="utf-8")


class Watch(TrainerCallback):
    """Times the updates after the first ones, and counts what the model sees in them."""

    def __init__(self, warmup: int) -> None:
        """Take the number of updates to leave out."""
        self.warmup = warmup
        self.clips = self.slots = 0
        self.tokens: Any = 0
        self.started = self.ended = 0.0

    def see(self, model: Any, _: Any, inputs: dict[str, Any]) -> None:
        """Count a batch on its way into the model; nothing waits for the GPU here."""
        if model.training:
            self.clips += inputs["labels"].shape[0]
            self.slots += inputs["labels"].numel()
            self.tokens = self.tokens + (inputs["labels"] != IGNORE_INDEX).sum()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start and stop the clock."""
        if state.global_step == 1:
            print(FIRST_UPDATE)
        if state.global_step in (self.warmup, state.max_steps):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ended = time.perf_counter()
        if state.global_step == self.warmup:
            self.started, self.clips, self.slots, self.tokens = self.ended, 0, 0, 0


def train(facts: Facts, processor: Any) -> dict[str, Any]:
    """Train with the guide's arguments, between two evaluations where they are wanted."""
    model = WhisperForConditionalGeneration.from_pretrained(
        facts.model, dtype=torch.float32, attn_implementation="sdpa"
    )
    print(LOADED)
    model.config.use_cache = False  # in training; generate has its own
    model.generation_config.use_cache = True
    if model.generation_config.is_multilingual:
        model.generation_config.language = facts.language
        model.generation_config.task = "transcribe"
    dataset = prepare(facts, processor)
    watch = Watch(facts.warmup)
    model.register_forward_pre_hook(watch.see, with_kwargs=True)
    trainer = Seq2SeqTrainer(
        args=arguments(facts),
        model=model,
        train_dataset=dataset["train"],
        eval_dataset=dataset["test"],
        data_collator=Collator(processor, model.config.decoder_start_token_id),
        processing_class=processor,
        callbacks=[watch],
    )
    found: dict[str, Any] = {}
    if facts.do == "evaluate":
        found["before"] = evaluate(trainer, dataset["test"], processor)
    trainer.train()
    if facts.do == "evaluate":
        found["after"] = evaluate(trainer, dataset["test"], processor)
    found |= {
        "seconds": watch.ended - watch.started,
        "updates": facts.updates - facts.warmup,
        "clips": watch.clips,
        "slots": watch.slots,
        "tokens": int(watch.tokens),
    }
    if torch.cuda.is_available():
        found["device_bytes"] = torch.cuda.max_memory_allocated()
    return found


def arguments(facts: Facts) -> Any:
    """Return the guide's arguments under today's names; nothing is saved or uploaded."""
    return Seq2SeqTrainingArguments(
        output_dir=facts.output,
        per_device_train_batch_size=facts.clips,
        gradient_accumulation_steps=1,
        learning_rate=1e-5,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=50,
        max_steps=facts.updates,
        gradient_checkpointing=facts.gradient_checkpointing,
        fp16=facts.precision == "fp16",
        bf16=facts.precision == "bf16",
        per_device_eval_batch_size=facts.eval_clips,
        predict_with_generate=True,
        generation_max_length=225,
        dataloader_num_workers=facts.workers,
        logging_steps=25,
        report_to=["tensorboard"],
        save_strategy="no",
        disable_tqdm=True,
        seed=facts.seed,
        use_cpu=not torch.cuda.is_available(),
    )


def evaluate(trainer: Any, dataset: Any, processor: Any) -> dict[str, Any]:
    """Transcribe a split, and time it."""
    started = time.perf_counter()
    tokens = trainer.predict(dataset).predictions
    tokens[tokens == IGNORE_INDEX] = processor.tokenizer.pad_token_id
    texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return {"seconds": time.perf_counter() - started, "texts": [text.strip() for text in texts]}


if __name__ == "__main__":
    main()
