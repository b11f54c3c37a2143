"""Which engine a model gets."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from tf_toolkit.serving import c_api, c_library, session
from tf_toolkit.serving.engine import Engine
from tf_toolkit.serving.errors import ModelError

log = logging.getLogger("tf_toolkit")


def open_model(directory: Path, intra_op: int = 0, inter_op: int = 0) -> Engine:
    """The model, loaded: on TensorFlow's C API, and where that is not to be had on `tensorflow` in Python.

    Memory of a GPU is taken as it is needed. Raises ModelError.
    """
    load = c_api.load if _c_api_works() else session.load
    try:
        return load(directory, intra_op, inter_op)
    except ImportError as error:
        raise ModelError(f"{directory}: no model can be loaded without TensorFlow: {error}") from None


@functools.cache
def _c_api_works() -> bool:
    try:
        c_library.library()
    except OSError as error:
        log.warning("%s; models are run by Python's tensorflow, which starts and answers more slowly", error)
        return False
    return True
