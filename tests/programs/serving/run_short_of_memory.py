"""Runs a model that is given more than it gets memory for: run_short_of_memory.py compiled|ctypes MODEL"""

import re
import resource
import sys
from pathlib import Path

import numpy as np

from tf_toolkit.serving import c_api

MEGABYTE = 1024 * 1024

calls, model = sys.argv[1], Path(sys.argv[2])
if calls == "ctypes":
    c_api.CompiledCall = None
else:
    assert c_api.CompiledCall
same = c_api.load(model)
large = np.ones(100 * MEGABYTE, np.float32)
# What TensorFlow sets up at the first run has its memory.
same.run("float32", {"x": large[:3]})
size = int(re.search(r"VmSize:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + large.nbytes // 2, resource.RLIM_INFINITY))
try:
    same.run("float32", {"x": large})
except MemoryError as error:
    print(type(error).__name__)
print(same.run("float32", {"x": large[:3]})["y"].sum())
