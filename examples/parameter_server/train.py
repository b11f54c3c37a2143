"""Train a Keras model that knows handwritten digits with TensorFlow 2's ParameterServerStrategy.

Only the first host of the job runs this script. The other hosts' workers do the steps that it hands out, each at its
own pace, and the variables lie on the parameter servers of all hosts.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import tensorflow as tf


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    # Hyperparameters come as arguments.
    parser.add_argument("--epochs", type=int, default=10)
    # Of each step, which one worker does.
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=0.003)
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
    # It reads TF_CONFIG and waits until all servers answer.
    strategy = tf.distribute.ParameterServerStrategy(tf.distribute.cluster_resolver.TFConfigClusterResolver())
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    tf.keras.utils.set_random_seed(0)
    with strategy.scope():
        model = build_model()
        optimizer = tf.keras.optimizers.Adam(arguments.learning_rate)
        optimizer.build(model.trainable_variables)
    train_images, train_labels = load(arguments.train)

    def batches() -> tf.data.Dataset:
        dataset = tf.data.Dataset.from_tensor_slices((train_images, train_labels))
        return dataset.shuffle(len(train_labels)).repeat().batch(arguments.batch_size)

    def update(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses = tf.keras.losses.sparse_categorical_crossentropy(labels, model(images, training=True))
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    step = tf.function(lambda iterator: strategy.run(update, args=next(iterator)))
    data = iter(coordinator.create_per_worker_dataset(batches))
    steps = len(train_labels) // arguments.batch_size
    for epoch in range(arguments.epochs):
        losses = [coordinator.schedule(step, args=(data,)) for _ in range(steps)]
        coordinator.join()
        print(f"epoch {epoch + 1}: loss {np.mean([loss.fetch() for loss in losses]):.3f}")

    images, labels = load(arguments.test)
    accuracy = np.mean(model(images).numpy().argmax(axis=1) == labels)
    print(f"test accuracy: {accuracy:.3f}")
    # The model's variables lie on all hosts and would be saved there; those of a copy are all here.
    copy = build_model()
    copy.set_weights(model.get_weights())
    copy.export(str(arguments.sm_model_dir / "1"))


if __name__ == "__main__":
    main()
