"""Write the channels that examples/digits/prepare_data.py made as RecordIO files of SageMaker's protobuf records.

usage: prepare_data.py DIGITS FOLDER
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
from record import Record

# The order of files is shuffled for each pass, so several are better than one.
FILES = 8
MAGIC = 0xCED7230A


def framed(record: bytes) -> bytes:
    """A record in RecordIO: its length stands before it, and it is padded to four bytes."""
    return struct.pack("<II", MAGIC, len(record)) + record + bytes(-len(record) % 4)


def serialized(image: np.ndarray, label: int) -> bytes:
    # One feature and one label go by the name `values`.
    record = Record()
    tensor = record.features["values"].float32_tensor
    tensor.values.extend(image.ravel())
    tensor.shape.extend(image.shape)
    record.label["values"].float32_tensor.values.append(label)
    return bytes(record.SerializeToString())


def main() -> None:
    digits, folder = map(Path, sys.argv[1:])
    for channel in ("train", "test"):
        (folder / channel).mkdir(parents=True, exist_ok=True)
        with np.load(digits / channel / "digits.npz") as content:
            images, labels = content["images"], content["labels"]
        for number in range(FILES):
            examples = zip(images[number::FILES], labels[number::FILES])
            content = b"".join(framed(serialized(image, label)) for image, label in examples)
            (folder / channel / f"{number}.recordio").write_bytes(content)
        print(f"{folder / channel}: {len(labels)} images in {FILES} files")


if __name__ == "__main__":
    main()
