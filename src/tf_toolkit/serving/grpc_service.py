"""TensorFlow Serving's PredictionService: serialized requests into serialized answers, for any server of gRPC.

https://github.com/tensorflow/serving/blob/master/tensorflow_serving/apis/prediction_service.proto
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import numpy as np

from tf_toolkit.serving import api_messages, classify_json
from tf_toolkit.serving.api_messages import ModelSpec
from tf_toolkit.serving.classify_json import ExamplesRequest
from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import ModelRunError, RequestError, invalid
from tf_toolkit.serving.registry import Registry, Servable
from tf_toolkit.serving.wire import WireError

NAME = "tensorflow.serving.PredictionService"

# Waits for what is to be done on the event loop.
Run = Callable[[Coroutine[Any, Any, "dict[str, Array]"]], "dict[str, Array]"]
Method = Callable[[bytes, Run], bytes]

# gRPC's codes of what has no code of TensorFlow's; all others are INTERNAL.
_CODES: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    507: "RESOURCE_EXHAUSTED",
}


def code(error: RequestError) -> str:
    """The name of gRPC's code for it: TensorFlow's are the same."""
    return error.code if isinstance(error, ModelRunError) else _CODES.get(error.status, "INTERNAL")


class PredictionService:
    """The methods for the models of a registry, for any thread but that of the event loop. They raise RequestError."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def methods(self) -> Mapping[str, Method]:
        """By their names."""
        return {
            "Predict": _checked(self._predict),
            "Classify": _checked(self._classify),
            "Regress": _checked(self._regress),
            "GetModelMetadata": _checked(self._metadata),
            "MultiInference": _multi_inference,
        }

    def _predict(self, message: memoryview, run: Run) -> bytes:
        spec, servable = self._asked(message)
        request = api_messages.predict_request(message)
        outputs = run(servable.run(spec.signature, request.inputs, request.outputs))
        return api_messages.predict_response(spec, outputs)

    def _classify(self, message: memoryview, run: Run) -> bytes:
        spec, request, outputs = self._of_examples(message, "classify", run)
        return api_messages.classification_response(spec, _classes(request, outputs))

    def _regress(self, message: memoryview, run: Run) -> bytes:
        spec, request, outputs = self._of_examples(message, "regress", run)
        return api_messages.regression_response(spec, classify_json.regressed(request, outputs).tolist())

    def _metadata(self, message: memoryview, run: Run) -> bytes:
        spec, servable = self._asked(message)
        asked = api_messages.metadata_fields(message)
        if set(asked) != {api_messages.SIGNATURE_DEF}:
            raise invalid(f"metadata_field is {', '.join(asked) or 'missing'}; there is {api_messages.SIGNATURE_DEF}")
        return api_messages.metadata_response(spec._replace(signature=""), servable.engine.signatures)

    def _of_examples(
        self, message: memoryview, method: str, run: Run
    ) -> tuple[ModelSpec, ExamplesRequest, dict[str, Array]]:
        spec, servable = self._asked(message)
        examples = api_messages.request_examples(message)
        request = classify_json.of_messages(examples, spec.signature, servable.engine.signatures, method)
        return spec, request, run(servable.run(request.signature_name, request.inputs, request.outputs))

    def _asked(self, message: memoryview) -> tuple[ModelSpec, Servable]:
        """The version that answers, as the answer names it, too."""
        spec = api_messages.request_spec(message)
        servable = self._registry.servable(spec.name, spec.version, spec.label)
        return spec._replace(version=servable.version), servable


def _checked(method: Callable[[memoryview, Run], bytes]) -> Method:
    def checked(message: bytes, run: Run) -> bytes:
        try:
            return method(memoryview(message), run)
        except WireError as error:
            raise invalid(f"this is no message of {NAME}: {error}") from error
        except MemoryError as error:
            raise RequestError(507, "not enough memory for this request") from error

    return checked


def _multi_inference(message: bytes, run: Run) -> bytes:
    raise ModelRunError("UNIMPLEMENTED", "this server has no MultiInference; call Classify and Regress one by one")


def _classes(request: ExamplesRequest, outputs: Mapping[str, Array]) -> Iterator[list[tuple[bytes, float]]]:
    """The labels and scores of each example, of which the model may have but one."""
    shape = request.size, classify_json.class_count(request, outputs)
    labels = np.full(shape, b"", object) if request.labels is None else outputs[request.labels]
    scores = np.zeros(shape) if request.scores is None else outputs[request.scores]
    for some, their in zip(labels.tolist(), scores.tolist()):
        # A label must be UTF-8, or no client can read the answer.
        yield [(label.decode(errors="replace").encode(), score) for label, score in zip(some, their)]
