"""Write the channels that examples/digits/prepare_data.py made as TFRecord files of tf.train.Example.

usage: prepare_data.py DIGITS FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

# The order of files is shuffled for each pass, so several are better than one.
FILES = 8


def example(image: np.ndarray, label: int) -> tf.train.Example:
    features = {
        "image": tf.train.Feature(float_list=tf.train.FloatList(value=image.ravel())),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features))


def main() -> None:
    digits, folder = map(Path, sys.argv[1:])
    for channel in ("train", "test"):
        (folder / channel).mkdir(parents=True, exist_ok=True)
        with np.load(digits / channel / "digits.npz") as content:
            images, labels = content["images"], content["labels"]
        for number in range(FILES):
            with tf.io.TFRecordWriter(str(folder / channel / f"{number}.tfrecord")) as writer:
                for image, label in zip(images[number::FILES], labels[number::FILES]):
                    writer.write(example(image, label).SerializeToString())
        print(f"{folder / channel}: {len(labels)} images in {FILES} files")


if __name__ == "__main__":
    main()
