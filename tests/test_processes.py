"""Sums over processes do not wait for a GPU."""

import subprocess
import sys

ON_THE_CPU = """
from types import SimpleNamespace
import torch
from trainer.processes import add_up
torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
far = SimpleNamespace(num_processes=2, device=torch.device("meta"))  # its values cannot be read
print(add_up(far, [1.5, 2.0]))
torch.distributed.destroy_process_group()
"""


def test_the_totals_of_an_update_are_added_up_on_the_cpu() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ON_THE_CPU], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[1.5, 2.0]"
