"""A thread dies, and the program gives up without a word."""

import sys
import threading


def prefetch() -> None:
    raise ValueError("prefetch failed")


thread = threading.Thread(target=prefetch)
thread.start()
thread.join()
sys.exit(1)
