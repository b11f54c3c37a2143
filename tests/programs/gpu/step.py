"""Trains on the GPU of this process's rank, and writes what it saw to SM_OUTPUT_DATA_DIR/<rank>.json."""

import json
import os
from pathlib import Path

import tensorflow as tf

rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))
# A process takes the GPU with its number on its host, as in Horovod's guide for TensorFlow 2,
# https://horovod.readthedocs.io/en/stable/tensorflow.html.
local_rank = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0"))
gpus = tf.config.list_physical_devices("GPU")
tf.config.set_visible_devices(gpus[local_rank], "GPU")

weights = tf.Variable(tf.ones([64, 8]))
inputs, targets = tf.random.normal([256, 64]), tf.zeros([256, 8])


@tf.function
def step() -> tf.Tensor:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(tf.matmul(inputs, weights) - targets))
    weights.assign_sub(0.1 * tape.gradient(loss, weights))
    return loss


losses = [float(step()) for _ in range(10)]
found = {
    "size": int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")),
    "gpus": len(gpus),
    "taken": [device.name for device in tf.config.get_visible_devices("GPU")],
    "weights_on": weights.device,
    "losses": losses,
    "count": os.environ["SM_NUM_GPUS"],
}
output = Path(os.environ["SM_OUTPUT_DATA_DIR"])
output.mkdir(parents=True, exist_ok=True)
(output / f"{rank}.json").write_text(json.dumps(found))
