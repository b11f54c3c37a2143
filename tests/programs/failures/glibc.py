"""Frees what was not allocated."""

import ctypes
import faulthandler
import sys

if "faulthandler" in sys.argv:
    faulthandler.enable()
libc = ctypes.CDLL(None)
libc.free.argtypes = [ctypes.c_void_p]
buffer = ctypes.create_string_buffer(64)
libc.free(ctypes.addressof(buffer) + 8)
