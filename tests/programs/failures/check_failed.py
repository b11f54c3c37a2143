"""TensorFlow's C++ code checks an invariant that does not hold: the sixth dimension of a scalar."""

import ctypes
import faulthandler
import importlib.util
import sys
from pathlib import Path

if "faulthandler" in sys.argv:
    faulthandler.enable()
root = Path(importlib.util.find_spec("tensorflow").origin).parent
tensorflow = ctypes.CDLL(str(root / "libtensorflow_cc.so.2"))
tensorflow.TF_AllocateTensor.restype = ctypes.c_void_p
tensorflow.TF_AllocateTensor.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
tensorflow.TF_Dim.argtypes = [ctypes.c_void_p, ctypes.c_int]
FLOAT = 1
tensorflow.TF_Dim(tensorflow.TF_AllocateTensor(FLOAT, None, 0, 4), 5)
