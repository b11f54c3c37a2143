"""Reads streams of records as a training script does, for benchmarks/pipe-mode.

usage: pipe_mode_reader.py compiled|python|file TREE

TREE is like /opt/ml. Each line of standard input asks for one pass, in JSON, and one line of standard output answers.
It is idle, with TensorFlow imported and an empty stream read, once it has answered the first.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

READER, TREE = sys.argv[1], Path(sys.argv[2])
if READER == "python":
    # As where the compiled part is not installed.
    sys.modules["tf_toolkit_pipe_mode"] = None  # type: ignore[assignment]
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import tensorflow as tf  # noqa: E402

from tf_toolkit.pipe_mode import PipeModeDataset, compiled_reader  # noqa: E402


def dataset(request: dict[str, Any]) -> Any:
    if READER == "file":
        return tf.data.TFRecordDataset(request["path"]).batch(request["batch"])
    state, data, config = (str(TREE / name) for name in ("state", "data", "config"))
    records = PipeModeDataset(request["channel"], request["format"], state, data, config)
    # Batches of records that come one by one, as after `map` or `shuffle`.
    return (records.repeat(1) if request["one_by_one"] else records).batch(request["batch"])


def read(request: dict[str, Any]) -> dict[str, float]:
    """One pass, batch by batch: wall seconds, the CPU seconds of all threads, and records.

    Not with the dataset's making, which is once for all its passes. Nor with the iterator's end, which waits for
    tf.data's tuner: of any dataset, and now and then as long as it lived.
    """
    count = 0
    made = dataset(request)
    if request["mapped"]:
        # To which tf.data adds a prefetch of its own.
        made = made.map(lambda records: tf.reverse(records, [0]))
    began, cpu = time.monotonic(), time.process_time()
    batches = iter(made)
    for batch in batches:
        count += len(batch)
    return {"seconds": time.monotonic() - began, "cpu": time.process_time() - cpu, "records": count}


def memory(name: str) -> int:
    """VmRSS or VmHWM, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    if READER == "compiled" and compiled_reader.library() is None:
        raise SystemExit("the compiled reader is not there: pipe_mode/ is built with a C compiler")
    idle = 0
    for line in sys.stdin:
        answer = read(json.loads(line))
        if not idle:
            idle = memory("VmRSS")
            # The peak begins anew: proc(5).
            Path("/proc/self/clear_refs").write_text("5")
        print(json.dumps({**answer, "grown": memory("VmHWM") - idle}), flush=True)


if __name__ == "__main__":
    main()
