"""A handled exception, printed, and then an end for another reason."""

import sys
import traceback


def cached() -> None:
    try:
        raise KeyError("cache")
    except KeyError:
        traceback.print_exc()


cached()
sys.exit("dataset is empty")
