"""Load a SavedModel as a server does, without the code that made it, and print its accuracy on a channel.

usage: evaluate.py SAVED_MODEL CHANNEL
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def main() -> None:
    model, channel = sys.argv[1:]
    signature = tf.saved_model.load(model).signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]
    with np.load(Path(channel) / "digits.npz") as digits:
        (probabilities,) = signature(**{name: tf.constant(digits["images"])}).values()
        accuracy = np.mean(probabilities.numpy().argmax(axis=1) == digits["labels"])
    print(f"test accuracy: {accuracy:.3f}")


if __name__ == "__main__":
    main()
