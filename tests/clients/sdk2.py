"""Training jobs by version 2 of the SageMaker Python SDK in local mode, as its users write them.

usage: sdk2.py JOB IMAGE TENSORFLOW

JOB is one of JOBS. It runs in a folder with the job's `code`, and the channels `train` and `test`; what the SDK brings
back comes to `out`. Code and results of the job "s3" go by way of the bucket `bucket`; its library lies in `library`.
The last line on standard output is JSON: the hyperparameters that were asked for, and what fit() raised.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from sagemaker.local import LocalSession
from sagemaker.tensorflow import TensorFlow

SERVERS = {"parameter_server": {"enabled": True}}
TWO_EACH = {"mpi": {"enabled": True, "processes_per_host": 2}}
EVERY_TYPE: dict[str, object] = {
    "hostile": "a b'\"\n$(touch /opt/ml/model/pwned) `id`; ünï → \\ * %s ${HOME} $$",
    "list": [64, "a 'b'", None],
    "map": {"a": [1, "x y"], "b": {"c": False}},
    "nothing": None,
    "number": 7,
    "rate": 1e-05,
    "text": "7",
    "yes": True,
    "z": "",
}
# No index answers: what is installed comes from the folder wheels/ beside the requirements.
NO_INDEX = {"PIP_NO_INDEX": "1"}
# What each TensorFlow() has besides the arguments that all have.
JOBS: dict[str, dict[str, Any]] = {
    "single": {"hyperparameters": EVERY_TYPE, "environment": NO_INDEX},
    "package": {"environment": NO_INDEX},
    "estimator": {"instance_count": 2, "hyperparameters": {"steps": 200}, "distribution": SERVERS},
    "parameter_server": {"instance_count": 2, "hyperparameters": {"epochs": 3}, "distribution": SERVERS},
    "mirrored": {
        "instance_count": 2,
        "hyperparameters": {"epochs": 3},
        "distribution": {"multi_worker_mirrored_strategy": {"enabled": True}},
    },
    "mpi": {"instance_count": 2, "distribution": TWO_EACH},
    "first is late": {"instance_count": 2, "distribution": TWO_EACH},
    "fails": {},
    "first fails": {"instance_count": 2, "hyperparameters": {"seconds": [2, 0], "fails": 0}},
    "second fails": {"instance_count": 2, "hyperparameters": {"seconds": [0, 2], "fails": 1}},
    # Longer than the 10 s that compose leaves to the other hosts when one has ended.
    "second is slow": {"instance_count": 2, "hyperparameters": {"seconds": [0, 12]}},
    "stopped": {},
    "s3": {"dependencies": ["library"]},
}
# The SDK puts this into the description of every container: the image's own entry point, on the first host after a
# while. "$$" is what compose takes for "$".
LATE = """\
if grep -q "\\"current_host\\": \\"algo-1-" /opt/ml/input/config/resourceconfig.json; then sleep 30; fi
exec /opt/tf-toolkit/entrypoint "$$@"
"""


def main() -> None:
    job, image, tensorflow = sys.argv[1:]
    options = {"instance_count": 1, **JOBS[job]}
    # The SDK adds its own to them.
    asked = dict(options.get("hyperparameters", {}))
    session = LocalSession(default_bucket="bucket")
    where: dict[str, Any] = {}
    if job != "s3":
        session.config = {"local": {"local_code": True}}
        where = {"output_path": "file://out"}
    if job == "first is late":
        session.config["local"]["container_config"] = {"entrypoint": ["sh", "-c", LATE, "-"]}
    estimator = TensorFlow(
        entry_point="train.py",
        source_dir="code",
        image_uri=image,
        # Version 2 of the SDK does without, but for MultiWorkerMirroredStrategy.
        framework_version=tensorflow,
        role="arn:aws:iam::000000000000:role/any",
        instance_type="local",
        sagemaker_session=session,
        **where,
        **options,
    )
    error = None
    try:
        estimator.fit({"train": "file://train", "test": "file://test"})
    except RuntimeError as raised:
        error = str(raised)
    print(json.dumps({"hyperparameters": asked, "error": error}))


if __name__ == "__main__":
    main()
