"""Train a small classifier of handwritten digits with Keras and Horovod: every rank on its share of the images.

Ranks exchange gradients, so all have the same model; the first one tests and saves it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import horovod.tensorflow.keras as hvd
import numpy as np
import tensorflow as tf


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=0.005)
    # Estimators of the SageMaker Python SDK send it; this script saves to SM_MODEL_DIR only.
    parser.add_argument("--model_dir", type=str)
    parser.add_argument("--train", type=Path, default=os.environ.get("SM_CHANNEL_TRAIN"))
    parser.add_argument("--test", type=Path, default=os.environ.get("SM_CHANNEL_TEST"))
    parser.add_argument("--sm_model_dir", type=Path, default=os.environ.get("SM_MODEL_DIR"))
    return parser.parse_args()


def load(channel: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(channel / "digits.npz") as digits:
        return digits["images"], digits["labels"]


def share_of(channel: Path) -> tuple[np.ndarray, np.ndarray]:
    """This rank's images: as many as every other rank's, for ranks take their steps together."""
    images, labels = load(channel)
    whole = len(images) // hvd.size() * hvd.size()
    return images[hvd.rank() : whole : hvd.size()], labels[hvd.rank() : whole : hvd.size()]


def build_model(learning_rate: float) -> tf.keras.Model:
    model = tf.keras.Sequential(
        [
            tf.keras.Input(shape=(8, 8, 1)),
            tf.keras.layers.Conv2D(32, 3, activation="relu"),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(64, activation="relu"),
            tf.keras.layers.Dense(10, activation="softmax"),
        ]
    )
    # A step of all ranks sees as many images as that many steps of one, so it may be as much longer.
    optimizer = hvd.DistributedOptimizer(tf.keras.optimizers.Adam(learning_rate * hvd.size()))
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    arguments = parse_arguments()
    hvd.init()
    model = build_model(arguments.learning_rate)
    model.fit(
        *share_of(arguments.train),
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        # The ranks begin with the first one's weights, and show the average of their results.
        callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0), hvd.callbacks.MetricAverageCallback()],
        verbose=2 if hvd.rank() == 0 else 0,
    )
    if hvd.rank() == 0:
        _, accuracy = model.evaluate(*load(arguments.test), verbose=0)
        print(f"test accuracy: {accuracy:.3f}")
        # TensorFlow Serving looks for folders that are named by a version number.
        model.export(str(arguments.sm_model_dir / "1"))


if __name__ == "__main__":
    main()
