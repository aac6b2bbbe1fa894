"""Run the toy task in a process of its own: ``run_toy.py OUT '{"training": …, "task": …, "fit": …}'``."""

import json
import logging
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from training_toy import ToyConfig, ToyTask

from counterview.config import load_config
from counterview.errors import CounterviewError
from counterview.training import checkpoint
from counterview.training.fit import fit
from counterview.training.processes import leave_processes
from counterview.training.recipe import TrainingConfig


def main() -> int:
    logging.basicConfig(level=logging.WARNING)
    out, options = sys.argv[1], json.loads(sys.argv[2])
    task = ToyTask(load_config(ToyConfig, options.get("task", {})))
    task.kill_after = options.get("kill_after")
    if options.get("idle"):  # a weight that no step reaches
        build, groups = task.build_model, task.parameter_groups

        def build_model():
            model = build()
            model.idle = torch.nn.Parameter(torch.zeros(3))
            return model

        def parameter_groups(model, base_lr, weight_decay):
            changed = groups(model, base_lr, weight_decay)
            changed[0]["params"].append(model.idle)
            return changed

        task.build_model, task.parameter_groups = build_model, parameter_groups
    if "kill_in_save" in options:  # at this file of the checkpoint that is being written
        real, calls = checkpoint.sha256_file, []

        def sha256_file(path):
            calls.append(path)
            if len(calls) == options["kill_in_save"]:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(path)

        checkpoint.sha256_file = sha256_file
    try:
        config = load_config(TrainingConfig, options["training"])
        result = fit(task, config, out, progress=False, **options.get("fit", {}))
    except CounterviewError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(result.metrics))
    return 0


if __name__ == "__main__":
    code = main()
    leave_processes()
    sys.exit(code)
