"""`python -m trainer RECIPE.yaml …` trains.

`python -m trainer plan RECIPE.yaml …` tells what that will do, `python -m trainer fit …` finds how
much fits in memory, `python -m trainer blank …` makes a new model, `python -m trainer
doctor` looks whether this machine can train, `python -m trainer publish RUN` sends its model to the
Hub, `python -m trainer export RUN --out=FOLDER` copies it, in half precision where that is asked.
"""

import sys

from data.errors import plain_errors
from trainer.main import main

if sys.argv[1:2] == ["blank"]:
    from data.config_parser import parse_dataclass
    from trainer.commands.tiny_model import TinyModelConfig, make_tiny_model

    with plain_errors():
        make_tiny_model(parse_dataclass(TinyModelConfig, sys.argv[2:]))
elif sys.argv[1:2] == ["fit"]:
    from trainer.commands.find_batch_size import FitConfig, fit
    from trainer.config import parse_as

    with plain_errors():
        fit(parse_as(FitConfig, sys.argv[2:]))
elif sys.argv[1:2] == ["doctor"]:
    from data.config_parser import parse_dataclass
    from trainer.commands.doctor import DoctorConfig, doctor

    with plain_errors():
        sys.exit(doctor(parse_dataclass(DoctorConfig, sys.argv[2:])))
elif sys.argv[1:2] == ["plan"]:
    from trainer.commands.plan import PlanConfig, plan
    from trainer.config import parse_as

    with plain_errors():
        plan(parse_as(PlanConfig, sys.argv[2:]))
elif sys.argv[1:2] == ["publish"]:
    from trainer.commands.publish import publish_run

    with plain_errors():
        publish_run(sys.argv[2:])
elif sys.argv[1:2] == ["export"]:
    from trainer.commands.publish import export_run

    with plain_errors():
        export_run(sys.argv[2:])
else:
    main()
