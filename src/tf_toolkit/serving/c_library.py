"""TensorFlow's C API, out of the wheel's own library, by ctypes: a fifth of the time that `import tensorflow` takes.

The functions: tensorflow/c/c_api.h, tf_tensor.h, tf_status.h and tf_tstring.h.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import threading
import types
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

_FILE_NAME = "libtensorflow_cc.so.2"
_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# Errors, without the lines about oneDNN and about the processor.
_ERRORS_ONLY = "2"
_INFO = 0

# https://github.com/tensorflow/tensorflow/blob/master/tensorflow/c/tf_status.h
CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)


class Output(ctypes.Structure):
    """TF_Output: one output of an operation."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


# Frees what a tensor was made of; from whichever thread lets go of it last.
Deallocator = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, c_void_p)

_Prototype = tuple[Any, Sequence[Any]]
_QUICK: Mapping[str, _Prototype] = {
    "TF_NewStatus": (c_void_p, ()),
    "TF_DeleteStatus": (None, (c_void_p,)),
    "TF_GetCode": (c_int, (c_void_p,)),
    "TF_Message": (c_char_p, (c_void_p,)),
    "TF_NewBufferFromString": (c_void_p, (c_char_p, c_size_t)),
    "TF_DeleteBuffer": (None, (c_void_p,)),
    "TF_AllocateTensor": (c_void_p, (c_int, POINTER(c_int64), c_int, c_size_t)),
    "TF_NewTensor": (c_void_p, (c_int, POINTER(c_int64), c_int, c_void_p, c_size_t, Deallocator, c_void_p)),
    "TF_DeleteTensor": (None, (c_void_p,)),
    "TF_NumDims": (c_int, (c_void_p,)),
    "TF_Dim": (c_int64, (c_void_p, c_int)),
    "TF_TensorByteSize": (c_size_t, (c_void_p,)),
    "TF_TensorData": (c_void_p, (c_void_p,)),
    "TF_StringCopy": (None, (c_void_p, c_char_p, c_size_t)),
    "TF_StringGetDataPointer": (c_void_p, (c_void_p,)),
    "TF_StringGetSize": (c_size_t, (c_void_p,)),
    "TF_StringDealloc": (None, (c_void_p,)),
    "TF_NewSessionOptions": (c_void_p, ()),
    "TF_SetConfig": (None, (c_void_p, c_char_p, c_size_t, c_void_p)),
    "TF_DeleteSessionOptions": (None, (c_void_p,)),
    "TF_NewGraph": (c_void_p, ()),
    "TF_GraphOperationByName": (c_void_p, (c_void_p, c_char_p)),
    "TF_OperationNumOutputs": (c_int, (c_void_p,)),
    "TF_OperationOutputType": (c_int, (Output,)),
}
_SLOW: Mapping[str, _Prototype] = {
    "TF_LoadSessionFromSavedModel": (
        c_void_p,
        (c_void_p, c_void_p, c_char_p, POINTER(c_char_p), c_int, c_void_p, c_void_p, c_void_p),
    ),
    "TF_SessionRun": (
        None,
        (
            *(c_void_p, c_void_p),
            *(POINTER(Output), POINTER(c_void_p), c_int),
            *(POINTER(Output), POINTER(c_void_p), c_int),
            *(c_void_p, c_int, c_void_p, c_void_p),
        ),
    ),
    "TF_CloseSession": (None, (c_void_p, c_void_p)),
    "TF_DeleteSession": (None, (c_void_p, c_void_p)),
    "TF_DeleteGraph": (None, (c_void_p,)),
}


def _functions(path: Path) -> Any:
    """The functions, by their names without ``TF_``, and ``path``. Raises OSError where there is no such library."""
    # Never for all to see (RTLD_GLOBAL): other libraries would take its symbols for their own, and crash.
    slow = ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL)
    # What takes no time keeps Python's lock: to give it up and get it back costs more.
    quick = ctypes.PyDLL(str(path), mode=ctypes.RTLD_LOCAL)
    functions = types.SimpleNamespace(path=os.fsencode(path))
    for library, prototypes in ((slow, _SLOW), (quick, _QUICK)):
        for name, (result, arguments) in prototypes.items():
            try:
                function = getattr(library, name)
            except AttributeError:
                raise OSError(f"{path} has no function {name}") from None
            function.restype, function.argtypes = result, arguments
            setattr(functions, name[3:], function)
    # Up to version 2.15 the log level is looked up when there is a first line to write, later as all is loaded.
    if hasattr(quick, "TF_Log"):
        quick.TF_Log(_INFO, b"TensorFlow is loaded")
    return functions


def failure(library: Any, status: int) -> tuple[str, str] | None:
    """The error's code and message, if there is one."""
    number = library.GetCode(status)
    return fault(number, library.Message(status)) if number else None


def fault(number: int, message: bytes) -> tuple[str, str]:
    """The code and message of an error, as text."""
    return (CODES[number] if number < len(CODES) else "UNKNOWN"), message.decode(errors="replace")


_loading = threading.Lock()


def library() -> Any:
    """The functions of the wheel's library. Raises OSError where they cannot be had."""
    with _loading:
        return _loaded()


@functools.cache
def _loaded() -> Any:
    package = importlib.util.find_spec("tensorflow")
    places = package.submodule_search_locations if package else None
    if not places:
        raise OSError("TensorFlow is not installed")
    path = Path(places[0]) / _FILE_NAME
    if not path.exists():
        raise OSError(f"{path} does not exist")
    if _LOG_LEVEL in os.environ:
        return _functions(path)
    # In the environment of C alone, where TensorFlow looks, and only while it does: it is not the user's.
    os.putenv(_LOG_LEVEL, _ERRORS_ONLY)
    try:
        return _functions(path)
    finally:
        os.unsetenv(_LOG_LEVEL)
