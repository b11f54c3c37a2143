"""Reads passes of the channel `train` of a tree: read.py TREE compiled|python FORMAT..."""

import sys
from pathlib import Path

from tf_toolkit.pipe_mode import PipeModeDataset, compiled_reader

root, reader = Path(sys.argv[1]), sys.argv[2]
if reader == "python":
    compiled_reader.library = lambda: None
else:
    assert compiled_reader.library() is not None
places = [str(root / name) for name in ("pipe_state", "input/data", "input/config")]
for record_format in sys.argv[3:]:
    records = [record.numpy() for record in PipeModeDataset("train", record_format, *places)]
    print(f"{len(records)} records, {sum(map(len, records))} bytes")
