"""Training jobs by version 3 of the SageMaker Python SDK in local mode, without `source_code`: the image runs itself.

usage: sdk3.py JOB IMAGE

JOB is one of JOBS. It runs in a folder with the job's `code`, and the channels `train` and `test`; what the SDK brings
back comes to `out/compressed_artifacts`. The last line on standard output is JSON: the hyperparameters that were asked
for, and what train() raised.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData
from sagemaker.train.model_trainer import Mode

# How many hosts each has, and its hyperparameters.
JOBS: dict[str, tuple[int, dict[str, Any]]] = {
    "single": (
        1,
        {
            "hostile": "a b'\"\n$(touch /opt/ml/model/pwned) `id`; ünï → \\ * %s ${HOME} $$",
            "list": [64, "a 'b'", None],
            "map": {"a": [1, "x y"], "b": {"c": False}},
            "number": 7,
            "yes": True,
        },
    ),
    "parameter_server": (2, {"epochs": 3, "sagemaker_parameter_server_enabled": True}),
    "mpi": (2, {"sagemaker_mpi_enabled": True, "sagemaker_mpi_num_of_processes_per_host": 2}),
    "fails": (1, {}),
}


def main() -> None:
    job, image = sys.argv[1:]
    hosts, hyperparameters = JOBS[job]
    Path("out").mkdir()
    trainer = ModelTrainer(
        training_mode=Mode.LOCAL_CONTAINER,
        training_image=image,
        role="arn:aws:iam::000000000000:role/any",
        compute=Compute(instance_type="local_cpu", instance_count=hosts),
        environment={"PIP_NO_INDEX": "1"},
        hyperparameters={
            **hyperparameters,
            "sagemaker_program": "train.py",
            "sagemaker_submit_directory": Path("code").absolute().as_uri(),
        },
        local_container_root=str(Path("out").absolute()),
    )
    error = None
    try:
        trainer.train([InputData(channel_name=name, data_source=name) for name in ("train", "test")])
    except RuntimeError as raised:
        error = str(raised)
    print(json.dumps({"hyperparameters": hyperparameters, "error": error}))


if __name__ == "__main__":
    main()
