"""Interrupted, as by Ctrl-C."""

import os
import signal

os.kill(os.getpid(), signal.SIGINT)
while True:
    signal.pause()
