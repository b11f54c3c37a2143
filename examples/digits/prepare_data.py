"""Write scikit-learn's handwritten digits as two channels: FOLDER/train/digits.npz and FOLDER/test/digits.npz.

usage: prepare_data.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def main() -> None:
    folder = Path(sys.argv[1])
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[..., np.newaxis]
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, digits.target, test_size=360, random_state=0, stratify=digits.target
    )
    for channel, images, labels in (
        ("train", train_images, train_labels),
        ("test", test_images, test_labels),
    ):
        path = folder / channel / "digits.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, images=images, labels=labels)
        print(f"{path}: {len(labels)} images of {images.shape[1]} x {images.shape[2]} pixels")


if __name__ == "__main__":
    main()
