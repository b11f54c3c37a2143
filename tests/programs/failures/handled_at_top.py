"""A handled exception, printed at the top level, and then sys.exit: it reads like one exception with two lines."""

import sys
import traceback

try:
    raise KeyError("cache")
except KeyError:
    traceback.print_exc()
sys.exit("dataset is empty")
