"""The bodies that say what a model is, and how its versions are; for both, see TensorFlow Serving's REST API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import orjson

from tf_toolkit.serving.signature import Signature, TensorInfo


class VersionStatus(NamedTuple):
    """One version of a model: START, LOADING, AVAILABLE, UNLOADING or END, and what went wrong with it."""

    version: int
    state: str
    error_code: str = "OK"
    error_message: str = ""


def status_body(versions: Iterable[VersionStatus]) -> bytes:
    """How a model's versions are, the newest first."""
    listed = [
        {
            "version": str(status.version),
            "state": status.state,
            "status": {"error_code": status.error_code, "error_message": status.error_message},
        }
        for status in sorted(versions, reverse=True)
    ]
    return orjson.dumps({"model_version_status": listed})


def metadata_body(model: str, version: int, signatures: Mapping[str, Signature]) -> bytes:
    """What a version of a model takes and gives."""
    described = {
        name: {
            "inputs": _tensors(signature.inputs),
            "outputs": _tensors(signature.outputs),
            "method_name": signature.method_name,
        }
        for name, signature in signatures.items()
    }
    return orjson.dumps(
        {
            "model_spec": {"name": model, "signature_name": "", "version": str(version)},
            "metadata": {"signature_def": {"signature_def": described}},
        }
    )


def _tensors(tensors: Mapping[str, TensorInfo]) -> dict[str, object]:
    return {
        key: {
            "dtype": info.dtype.name,
            "tensor_shape": {
                # JSON's numbers are not exact for all of int64.
                "dim": [{"size": str(size), "name": ""} for size in info.shape or ()],
                "unknown_rank": info.shape is None,
            },
            "name": info.name,
        }
        for key, info in tensors.items()
    }
