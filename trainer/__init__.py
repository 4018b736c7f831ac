"""From a config to a trained model.

config      a recipe and arguments → Config
main        builds everything in order, and trains
loop        update, record, evaluate, save: when each is due
run         everything that the loop touches: what trains, what is saved, who watches
recovery    what it does where something goes wrong
step        one update; distributed/engine: what DDP and FSDP2 do differently in it
model       what training adds to Whisper: selected positions, summed loss; freezing: which parts
            are not trained; lora: adapters beside frozen weights
optim       AdamW's groups; the learning rate as a function of the update; eightbit: small moments
state       all progress there is
checkpoint  writes and loads; snapshot is the copy in memory, sealed the folder that is complete or
            absent, shelf where they stand
resume      going on where a run stopped
run_folder  the run's files, and its corpus, frozen at the first start; run_lock: one start at a
            time; run_status: status.json; shared_scan: all processes measure the corpus;
            liveness: which of them have ended
passes      where batches come from: the frozen corpus, or a stream
pulse       beats between units of work: signals are heeded, and the watchdog is fed;
            watchdog_process: a process that kills a training process that stalls
processes   sums over all processes, and the end of their group
guard       updates that gave no finite gradient
memory      passes that do not fit: found first, and cut smaller
fit         searches for the largest that fit; budget keeps what it found
planning    what a run will do: workload counts, bench times, footprint weighs, outlook tells
forecast    what was planned, and the run held against it
drops       clips that failed on the way
telemetry   throughput; recorder: metrics.jsonl and the display; trackers: TensorBoard, wandb …
report      report.html; plots: its curves, and pictures of them at the end
"""

import os

# torch reads this when it first allocates, and asks Linux for huge pages: 3 to 9 % on a CPU
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import data as _data  # noqa: F401 - makes torchaudio importable before transformers asks for it
