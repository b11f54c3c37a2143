"""Train a small classifier of handwritten digits, and save it so that it can be served."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import tensorflow as tf
from tabulate import tabulate


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    # Hyperparameters come as arguments.
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=0.01)
    # Estimators of the SageMaker Python SDK send it: a place in S3 for checkpoints, which this script does without.
    parser.add_argument("--model_dir", type=str)
    # Data comes in channels. What lies in SM_MODEL_DIR at the end is the model.
    parser.add_argument("--train", type=Path, default=os.environ.get("SM_CHANNEL_TRAIN"))
    parser.add_argument("--test", type=Path, default=os.environ.get("SM_CHANNEL_TEST"))
    parser.add_argument("--sm_model_dir", type=Path, default=os.environ.get("SM_MODEL_DIR"))
    return parser.parse_args()


def load(channel: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(channel / "digits.npz") as digits:
        return digits["images"], digits["labels"]


def build_model(learning_rate: float) -> tf.keras.Model:
    model = tf.keras.Sequential(
        [
            tf.keras.Input(shape=(8, 8, 1)),
            tf.keras.layers.Conv2D(32, 3, activation="relu"),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dropout(0.3),
            tf.keras.layers.Dense(64, activation="relu"),
            tf.keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=tf.keras.optimizers.Adam(learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def print_accuracy_by_digit(model: tf.keras.Model, images: np.ndarray, labels: np.ndarray) -> None:
    found = model.predict(images, verbose=0).argmax(axis=1)
    rows = [(digit, np.sum(labels == digit), np.mean(found[labels == digit] == digit)) for digit in range(10)]
    print(tabulate(rows, headers=["digit", "images", "accuracy"], floatfmt=".3f"))


def main() -> None:
    arguments = parse_arguments()
    tf.keras.utils.set_random_seed(0)
    model = build_model(arguments.learning_rate)
    model.fit(
        *load(arguments.train),
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        validation_data=load(arguments.test),
        verbose=2,
    )
    print_accuracy_by_digit(model, *load(arguments.test))
    # TensorFlow Serving looks for folders that are named by a version number.
    model.export(str(arguments.sm_model_dir / "1"))


if __name__ == "__main__":
    main()
