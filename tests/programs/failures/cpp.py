"""C++ code throws, and nobody catches."""

import ctypes
import faulthandler
import sys

if "faulthandler" in sys.argv:
    faulthandler.enable()
# std::__throw_runtime_error(char const*)
ctypes.CDLL("libstdc++.so.6")._ZSt21__throw_runtime_errorPKc(b"bad shard")
