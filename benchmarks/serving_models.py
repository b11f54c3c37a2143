"""Writes the SavedModels of benchmarks/serving and benchmarks/serving-soak: serving_models.py FOLDER

half_plus_two computes next to nothing; mlp is a network of 30 features, 128 and 128 units and 10 classes; row_sums
takes rows of any length. Each lies in FOLDER/<name>/1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

FEATURES, UNITS, CLASSES = 30, 128, 10
Tensors = Any


class Mlp(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        sizes = (FEATURES, UNITS, UNITS, CLASSES)
        tf.random.set_seed(0)
        self.weights = [tf.Variable(tf.random.normal(pair, stddev=0.1)) for pair in zip(sizes, sizes[1:])]

    def __call__(self, x: Tensors) -> Tensors:
        for weights in self.weights[:-1]:
            x = tf.nn.relu(x @ weights)
        return tf.nn.softmax(x @ self.weights[-1])


def save(path: Path, shape: list[int | None], module: Any, compute: Any) -> None:
    serve = tf.function(lambda x: {"y": compute(x)}, input_signature=[tf.TensorSpec(shape, tf.float32, "x")])
    module.serve = serve
    tf.saved_model.save(module, str(path / "1"), signatures={"serving_default": serve})


def main() -> None:
    folder = Path(sys.argv[1])
    mlp = Mlp()
    save(folder / "half_plus_two", [None], tf.Module(), lambda x: x / 2 + 2)
    save(folder / "mlp", [None, FEATURES], mlp, mlp)
    save(folder / "row_sums", [None, None], tf.Module(), lambda x: tf.reduce_sum(x, 1))


if __name__ == "__main__":
    main()
