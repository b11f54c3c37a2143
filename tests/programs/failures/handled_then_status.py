"""As before, but at the top level, and with a status that no uncaught exception has."""

import sys
import traceback

try:
    raise KeyError("cache")
except KeyError:
    traceback.print_exc()
print("dataset is empty", file=sys.stderr)
sys.exit(7)
