"""Killed without a word, as by the kernel for want of memory."""

import os
import signal

os.kill(os.getpid(), signal.SIGKILL)
