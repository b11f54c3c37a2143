"""Horovod's ranks and sizes, and the sum of a large tensor over all, written into each host's output directory."""

import json
import os
from pathlib import Path

import horovod.tensorflow as hvd
import tensorflow as tf

hvd.init()
total = hvd.allreduce(tf.fill([1_000_000], float(hvd.rank() + 1)), op=hvd.Sum)
seen = {
    "rank": hvd.rank(),
    "size": hvd.size(),
    "local rank": hvd.local_rank(),
    "local size": hvd.local_size(),
    "sums": sorted(set(total.numpy().tolist())),
    "host": os.environ["SM_CURRENT_HOST"],
}
(Path(os.environ["SM_OUTPUT_DATA_DIR"]) / f"rank-{hvd.rank()}.json").write_text(json.dumps(seen))
