"""The user's own function fails inside TensorFlow's input pipeline."""

import tensorflow as tf


def load(number: tf.Tensor) -> tf.Tensor:
    raise ValueError(f"bad shard {number}")


for element in tf.data.Dataset.range(3).map(lambda number: tf.py_function(load, [number], tf.int64)):
    print(element)
