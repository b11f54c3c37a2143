"""Writes a SavedModel that takes as long as it is told to: make_slow_model.py FOLDER

It lies in FOLDER/slow/1. Given seconds, it is busy for the most of them, and gives them back.
"""

import sys
from pathlib import Path

import tensorflow as tf


class Slow(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64, "seconds")])
    def serve(self, seconds):
        end = tf.timestamp() + tf.reduce_max(tf.concat([seconds, [0.0]], 0))
        count = tf.while_loop(lambda count: tf.timestamp() < end, lambda count: [count + 1], [tf.constant(0)])
        with tf.control_dependencies(count):
            return {"waited": tf.identity(seconds)}


module = Slow()
tf.saved_model.save(module, str(Path(sys.argv[1]) / "slow" / "1"), signatures={"serving_default": module.serve})
