"""Learns that y is half of x plus three, and saves the model so that it can be served."""

import argparse
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int)
# The SDK sends it: a place for checkpoints, which this script does without.
parser.add_argument("--model_dir")
arguments = parser.parse_args()
x, y = np.loadtxt(Path(os.environ["SM_CHANNEL_TRAIN"]) / "train.csv", np.float32, delimiter=",", unpack=True)
model = tf.Module()
model.a, model.b = tf.Variable(0.0), tf.Variable(0.0)
for _ in range(arguments.steps):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model.a * x + model.b - y) ** 2)
    for variable, gradient in zip((model.a, model.b), tape.gradient(loss, (model.a, model.b))):
        variable.assign_sub(0.5 * gradient)


@tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
def serve(x):
    return {"y": model.a * x + model.b}


model.serve = serve
tf.saved_model.save(model, str(Path(os.environ["SM_MODEL_DIR"]) / "1"), signatures={"serving_default": serve})
