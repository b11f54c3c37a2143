"""Train a classifier of handwritten digits with tf.estimator and parameter servers (TensorFlow up to 2.15)."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import tensorflow as tf


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    # Hyperparameters come as arguments.
    parser.add_argument("--steps", type=int, default=1000)
    # Of each host; the steps are those of all together.
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=0.003)
    # For checkpoints, of which the first host's are the model's. Without it, a temporary directory.
    parser.add_argument("--model_dir", type=str)
    # Data comes in channels. What lies in SM_MODEL_DIR at the end is the model.
    parser.add_argument("--train", type=Path, default=os.environ.get("SM_CHANNEL_TRAIN"))
    parser.add_argument("--test", type=Path, default=os.environ.get("SM_CHANNEL_TEST"))
    parser.add_argument("--sm_model_dir", type=Path, default=os.environ.get("SM_MODEL_DIR"))
    return parser.parse_args()


def dataset(channel: Path) -> tf.data.Dataset:
    with np.load(channel / "digits.npz") as digits:
        return tf.data.Dataset.from_tensor_slices((digits["images"], digits["labels"]))


def model_fn(
    features: tf.Tensor, labels: tf.Tensor | None, mode: str, params: dict[str, float]
) -> tf.estimator.EstimatorSpec:
    layers = tf.keras.Sequential(
        [
            tf.keras.layers.Conv2D(32, 3, activation="relu"),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(64, activation="relu"),
            tf.keras.layers.Dense(10),
        ]
    )
    logits = layers(features)
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(mode, predictions={"probabilities": tf.nn.softmax(logits)})
    loss = tf.compat.v1.losses.sparse_softmax_cross_entropy(labels, logits)
    accuracy = tf.compat.v1.metrics.accuracy(labels, tf.argmax(logits, axis=1))
    optimizer = tf.compat.v1.train.AdamOptimizer(params["learning_rate"])
    train = optimizer.minimize(loss, tf.compat.v1.train.get_global_step())
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train, eval_metric_ops={"accuracy": accuracy})


def served_images() -> tf.estimator.export.TensorServingInputReceiver:
    images = tf.compat.v1.placeholder(tf.float32, (None, 8, 8, 1), name="images")
    return tf.estimator.export.TensorServingInputReceiver(images, {"images": images})


def main() -> None:
    arguments = parse_arguments()
    tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.INFO)

    def train_data() -> tf.data.Dataset:
        return dataset(arguments.train).shuffle(2000).repeat().batch(arguments.batch_size)

    def test_data() -> tf.data.Dataset:
        return dataset(arguments.test).batch(arguments.batch_size)

    # It reads TF_CONFIG: which task this host has, and where the others' are.
    config = tf.estimator.RunConfig(arguments.model_dir, tf_random_seed=0)
    estimator = tf.estimator.Estimator(model_fn, config=config, params={"learning_rate": arguments.learning_rate})
    tf.estimator.train_and_evaluate(
        estimator,
        tf.estimator.TrainSpec(train_data, max_steps=arguments.steps),
        tf.estimator.EvalSpec(test_data, steps=None),
    )
    if config.is_chief:
        print(f"test accuracy: {estimator.evaluate(test_data)['accuracy']:.3f}")
        # The estimator names a model by the time; TensorFlow Serving looks for any number.
        saved = estimator.export_saved_model(str(arguments.sm_model_dir), served_images)
        Path(os.fsdecode(saved)).rename(arguments.sm_model_dir / "1")


if __name__ == "__main__":
    main()
