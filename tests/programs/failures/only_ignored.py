"""Exceptions that Python ignores, around an end for another reason: one with a traceback, one without."""

import os
import sys


class Reader:
    def __del__(self) -> None:
        raise OSError("already closed")


Reader()
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
print("nobody reads this")
sys.exit("dataset is empty")
