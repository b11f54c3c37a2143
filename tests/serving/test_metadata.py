"""What the server says of a model."""

from __future__ import annotations

import json

from signatures import FLOAT, STRING, signature, tensor
from tf_toolkit.serving.metadata import VersionStatus, metadata_body, status_body


def test_the_status_has_the_newest_version_first() -> None:
    body = json.loads(status_body([VersionStatus(2, "END", "INTERNAL", 'no "x"'), VersionStatus(10, "AVAILABLE")]))

    assert body == {
        "model_version_status": [
            {"version": "10", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}},
            {"version": "2", "state": "END", "status": {"error_code": "INTERNAL", "error_message": 'no "x"'}},
        ]
    }


def test_the_metadata_has_all_signatures() -> None:
    one = signature({"x": tensor(FLOAT, [-1, 3])}, {"y": tensor(STRING, None), "n": tensor(FLOAT, [])})

    body = json.loads(metadata_body("m", 3, {"serving_default": one}))

    assert body["model_spec"] == {"name": "m", "signature_name": "", "version": "3"}
    assert body["metadata"]["signature_def"]["signature_def"]["serving_default"] == {
        "inputs": {
            "x": {
                "dtype": "DT_FLOAT",
                "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "3", "name": ""}], "unknown_rank": False},
                "name": "tensor:0",
            }
        },
        "outputs": {
            "y": {"dtype": "DT_STRING", "tensor_shape": {"dim": [], "unknown_rank": True}, "name": "tensor:0"},
            "n": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [], "unknown_rank": False}, "name": "tensor:0"},
        },
        "method_name": "tensorflow/serving/predict",
    }
