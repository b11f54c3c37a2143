"""The compiled reader of tf_toolkit.pipe_mode."""

from pathlib import Path

#: A shared library with an operation for TensorFlow; it is not there where no compiler was.
LIBRARY = str(Path(__file__).with_name("read_records.so"))
