"""Train a Keras model that knows handwritten digits on all hosts at once, with MultiWorkerMirroredStrategy."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    # Hyperparameters come as arguments.
    parser.add_argument("--epochs", type=int, default=10)
    # Of all workers together.
    parser.add_argument("--batch_size", type=int, default=64)
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


def batches(strategy: tf.distribute.Strategy, channel: Path, size: int) -> tf.distribute.DistributedDataset:
    """Each worker's share of every batch."""
    images, labels = load(channel)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(labels), seed=0)
    options = tf.data.Options()
    # There are fewer files than workers, so every worker reads all images and keeps its share.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return strategy.experimental_distribute_dataset(dataset.batch(size, drop_remainder=True).with_options(options))


def build_model() -> tf.keras.Model:
    return tf.keras.Sequential(
        [
            tf.keras.Input(shape=(8, 8, 1)),
            tf.keras.layers.Conv2D(32, 3, activation="relu"),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(64, activation="relu"),
            tf.keras.layers.Dense(10, activation="softmax"),
        ]
    )


def main() -> None:
    arguments = parse_arguments()
    # Before anything else of TensorFlow: it reads TF_CONFIG and meets the other workers.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    chief = strategy.cluster_resolver.task_id in (None, 0)
    tf.keras.utils.set_random_seed(0)
    with strategy.scope():
        model = build_model()
        optimizer = tf.keras.optimizers.Adam(arguments.learning_rate)
        optimizer.build(model.trainable_variables)

    # A loop of our own, for Keras 3's fit() fails here: https://github.com/keras-team/keras/issues/20585
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses = tf.keras.losses.sparse_categorical_crossentropy(labels, model(images, training=True))
            # Gradients are added up over the workers, so each divides by the size of the whole batch.
            loss = tf.reduce_sum(losses) / arguments.batch_size
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    train = tf.function(lambda *batch: strategy.reduce("SUM", strategy.run(step, args=batch), axis=None))
    dataset = batches(strategy, arguments.train, arguments.batch_size)
    for epoch in range(arguments.epochs):
        loss = np.mean([train(*batch) for batch in dataset])
        if chief:
            print(f"epoch {epoch + 1}: loss {loss:.3f}")

    images, labels = load(arguments.test)
    accuracy = np.mean(model(images).numpy().argmax(axis=1) == labels)
    if chief:
        print(f"test accuracy: {accuracy:.3f}")
    # Every worker must take part in saving, and only the chief's model is kept.
    with tempfile.TemporaryDirectory() as discarded:
        model.export(str((arguments.sm_model_dir if chief else Path(discarded)) / "1"))


if __name__ == "__main__":
    main()
