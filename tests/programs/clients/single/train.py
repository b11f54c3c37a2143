"""Trains and saves a model, and writes down what it was given."""

import json
import os
import sys
from pathlib import Path

# Beside this script, and from the requirements.
import helper
import small_library
import tensorflow as tf

model = tf.Module()
model.weight = tf.Variable(1.0)
with tf.GradientTape() as tape:
    loss = model.weight**2
model.weight.assign_sub(0.25 * tape.gradient(loss, model.weight))
tf.saved_model.save(model, str(Path(os.environ["SM_MODEL_DIR"]) / "1"))
seen = {
    "argv": sys.argv[1:],
    "hyperparameters": json.loads(os.environ["SM_HPS"]),
    "channels": {
        name: sorted(path.name for path in Path(os.environ[f"SM_CHANNEL_{name.upper()}"]).iterdir())
        for name in json.loads(os.environ["SM_CHANNELS"])
    },
    "helper": helper.__name__,
    "library": small_library.version,
    "tensorflow": tf.__version__,
    "weight": float(model.weight.numpy()),
}
(Path(os.environ["SM_OUTPUT_DATA_DIR"]) / "seen.json").write_text(json.dumps(seen))
