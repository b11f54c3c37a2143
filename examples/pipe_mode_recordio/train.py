"""Train a classifier of handwritten digits on protobuf records in RecordIO, through channels in Pipe mode."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import tensorflow as tf
from record import DESCRIPTORS

from tf_toolkit.pipe_mode import PipeModeDataset


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    # Hyperparameters come as arguments.
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=0.01)
    # Estimators of the SageMaker Python SDK send it: a place in S3 for checkpoints, which this script does without.
    parser.add_argument("--model_dir", type=str)
    # What lies in SM_MODEL_DIR at the end is the model.
    parser.add_argument("--sm_model_dir", type=Path, default=os.environ.get("SM_MODEL_DIR"))
    return parser.parse_args()


def field(messages: tf.Tensor, message: str, name: str, kind: tf.DType = tf.string) -> tf.Tensor:
    """What each of the messages has in a field: a row of it."""
    source = b"bytes://" + DESCRIPTORS
    return tf.io.decode_proto(messages, f"aialgs.data.{message}", [name], [kind], descriptor_source=source).values[0]


def values(batch: tf.Tensor, name: str) -> tf.Tensor:
    """The numbers of the one feature, or label, of each record."""
    entries = field(batch, "Record", name)[:, 0]
    tensors = field(field(entries, f"Record.{name.capitalize()}Entry", "value")[:, 0], "Value", "float32_tensor")[:, 0]
    return field(tensors, "Float32Tensor", "values", tf.float32)


def parse(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.reshape(values(batch, "features"), [-1, 8, 8, 1]), values(batch, "label")[:, 0]


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


def main() -> None:
    arguments = parse_arguments()
    tf.keras.utils.set_random_seed(0)
    # Each iterator, so each epoch, reads all records once. They are shuffled as far as the buffer reaches.
    train = PipeModeDataset("train", record_format="RecordIO").shuffle(1000)
    train = train.batch(arguments.batch_size).map(parse).prefetch(2)
    model = build_model(arguments.learning_rate)
    model.fit(train, epochs=arguments.epochs, verbose=2)
    # Straight after the dataset `batch` is fastest, for then batches are read.
    test = PipeModeDataset("test", record_format="RecordIO").batch(arguments.batch_size).map(parse)
    _, accuracy = model.evaluate(test, verbose=0)
    print(f"test accuracy: {accuracy:.3f}")
    # TensorFlow Serving looks for folders that are named by a version number.
    model.export(str(arguments.sm_model_dir / "1"))


if __name__ == "__main__":
    main()
