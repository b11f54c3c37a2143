"""The bodies of /invocations: by the declared content type into a predict request.

| content type | body |
|---|---|
| ``application/json``, or none | a request of TensorFlow Serving's REST API, simplified JSON, or JSON lines |
| ``application/jsonlines``, ``application/jsons`` | a record a line |
| ``text/csv`` | a record a line, for a model of one input |
| ``application/x-npy`` | the one input as an array |

An object is a request of the REST API where it has that API's keys, and else an instance. One exception: when its keys
are the names of the model's inputs, it is an instance. With ``inputs`` or ``instances`` as its only key it is a request
all the same if it is the whole document; if it is one of JSON lines, it is a record of a model that has such an input.

No record is lost: several values on a line, or lines that do not go together, are refused with the line's number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from encodings import normalize_encoding
from encodings.aliases import aliases
from functools import lru_cache
from typing import Any

from tf_toolkit.serving import csv_records, npy
from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import RequestError, invalid
from tf_toolkit.serving.expectation import expected
from tf_toolkit.serving.json_arrays import is_base64
from tf_toolkit.serving.json_text import parse
from tf_toolkit.serving.media_types import CSV, JSON, JSON_LINES, JSONS, NPY, MediaType
from tf_toolkit.serving.media_types import parse as parse_media_type
from tf_toolkit.serving.rest_json import PredictRequest, predict_request, without_booleans
from tf_toolkit.serving.signature import DEFAULT_SIGNATURE, Signature, TensorInfo

_INSTANCES = "instances"
_INPUTS = "inputs"
API_KEYS = frozenset((_INSTANCES, _INPUTS, "examples"))
# Not all that Python knows: it keeps for ever what it does not know, and some take a time that grows with the square.
_CHARSETS = frozenset(aliases.values()) - {"idna", "punycode", "raw_unicode_escape", "unicode_escape"}

Signatures = Mapping[str, Signature]


def parse_invocation(body: bytes, content_type: str | None, signatures: Signatures) -> PredictRequest:
    """The request of a body that is declared to be of this type. Raises RequestError."""
    declared = _declared(content_type)
    if declared.name == NPY:
        return _of_one_input(NPY, _npy_array, body, signatures)
    if declared.parameters:
        body = _utf8(body, declared, content_type)
    if declared.name == CSV:
        return _bare(_of_one_input(CSV, _csv_array, body, signatures))
    return (_from_json if declared.name == JSON else _from_lines)(body, signatures)


def json_body(body: bytes, content_type: str | None) -> bytes:
    """The JSON of a request to classify or regress, which come as TensorFlow Serving's REST API has them alone."""
    declared = _declared(content_type)
    if declared.name in (CSV, NPY):
        raise _unsupported(content_type)
    return _utf8(body, declared, content_type)


@lru_cache(maxsize=100)
def _declared(content_type: str | None) -> MediaType:
    declared = parse_media_type((content_type or "").strip() or JSON)
    if declared.name not in (JSON, JSON_LINES, JSONS, CSV, NPY):
        raise _unsupported(content_type)
    return declared


def _unsupported(content_type: str | None) -> RequestError:
    return RequestError(415, f"Unsupported Media Type: {content_type}")


def _utf8(body: bytes, declared: MediaType, content_type: str | None) -> bytes:
    """The text in UTF-8, which it is where no other charset is declared."""
    charset = declared.parameters.get("charset", "utf-8").lower()
    if charset in ("utf-8", "utf8"):
        return body
    name = normalize_encoding(charset)
    name = aliases.get(name, name)
    if name not in _CHARSETS:
        raise _unsupported(content_type)
    try:
        return body.decode(name).encode()
    except UnicodeError:
        raise invalid(f"the body is not {charset}, as its content type has it") from None
    except (LookupError, ValueError):
        raise _unsupported(content_type) from None


def _from_json(body: bytes, signatures: Signatures) -> PredictRequest:
    try:
        document = parse(body)
    except RequestError:
        if not body.strip():
            return predict_request({_INSTANCES: []}, signatures)
        if not _begins_with_a_record(body):
            raise
        return _from_lines(body, signatures)
    if not _is_of_api(document, signatures, in_lines=False):
        document = {_INSTANCES: _instances(document, signatures)}
    return predict_request(document, signatures, no_booleans=without_booleans(body))


def _begins_with_a_record(body: bytes) -> bool:
    """Whether the first line is a value, so that what is no document may be JSON lines."""
    try:
        parse(body.lstrip().split(b"\n", 1)[0])
    except RequestError:
        return False
    return True


def _is_of_api(document: object, signatures: Signatures, *, in_lines: bool) -> bool:
    """Whether this is a whole request of the REST API, and not an instance."""
    if type(document) is not dict or API_KEYS.isdisjoint(document):
        return False
    signature = signatures.get(DEFAULT_SIGNATURE)
    is_instance = signature is not None and document.keys() == signature.inputs.keys()
    is_ambiguous = len(document) == 1 and (_INSTANCES in document or _INPUTS in document)
    return not is_instance or (is_ambiguous and not in_lines)


def _instances(document: Any, signatures: Signatures) -> list[Any]:
    """Simplified JSON: lists of lists, or of objects, are many instances, all else is one.

    A plain list is many all the same where the model takes no list as an instance.
    """
    if type(document) is list and document:
        first = document[0]
        if type(first) is list or (type(first) is dict and not is_base64(first)):
            return document
    signature = signatures.get(DEFAULT_SIGNATURE)
    shapes = [info.shape for info in signature.inputs.values()] if signature else []
    takes_scalars = len(shapes) == 1 and shapes[0] is not None and len(shapes[0]) == 1
    return document if type(document) is list and takes_scalars else [document]


def _from_lines(body: bytes, signatures: Signatures) -> PredictRequest:
    lines = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line and not line.isspace()]
    records = [_record(number, line) for number, line in lines]
    numbers = [number for number, _ in lines]
    if any(_is_of_api(record, signatures, in_lines=True) for record in records):
        document = _joined(numbers, records, signatures)
    else:
        document = {_INSTANCES: records}
    return predict_request(document, signatures, no_booleans=without_booleans(body))


def _record(number: int, line: bytes) -> Any:
    try:
        return parse(line)
    except RequestError as error:
        raise invalid(f"line {number}: {error.message}; each line of JSON lines is one value") from None


def _joined(numbers: Sequence[int], records: Sequence[Any], signatures: Signatures) -> dict[str, Any]:
    """One request of the lines that are requests themselves: their instances one after the other."""
    first = records[0]
    if len(records) == 1:
        return dict(first)
    instances: list[Any] = []
    for number, record in zip(numbers, records):
        if not _is_of_api(record, signatures, in_lines=True):
            raise invalid(f"line {number} is a record, but other lines are requests with the key 'instances'")
        if type(record.get(_INSTANCES)) is not list or not _goes_with(record, records[0]):
            raise invalid(
                f"line {number}: of several requests in one body, all must have a list of 'instances', "
                "and all other keys must be the same"
            )
        instances += record[_INSTANCES]
    return {**first, _INSTANCES: instances}


def _goes_with(record: dict[str, Any], first: dict[str, Any]) -> bool:
    """Whether all but the instances is the same."""
    try:
        return {**record, _INSTANCES: None} == {**first, _INSTANCES: None}
    except RecursionError:
        # Nested deeper than Python compares, which no key's value need be.
        return False


def _of_one_input(
    media_type: str, read: Callable[[bytes, TensorInfo], Array], body: bytes, signatures: Signatures
) -> PredictRequest:
    signature = signatures.get(DEFAULT_SIGNATURE)
    if signature is None:
        raise invalid(f'Serving signature name: "{DEFAULT_SIGNATURE}" not found in signature def')
    try:
        if len(signature.inputs) != 1:
            count = len(signature.inputs)
            raise invalid(f"{media_type} has no names of inputs, and the model takes {count}: send JSON or JSON lines")
        ((name, info),) = signature.inputs.items()
        inputs = {name: read(body, info)}
    except RequestError as error:
        raise RequestError(error.status, f"{error.message}; {expected(DEFAULT_SIGNATURE, signature)}") from None
    return PredictRequest(DEFAULT_SIGNATURE, signature, inputs, row_format=True, outputs=None)


def _csv_array(body: bytes, info: TensorInfo) -> Array:
    """A row of values for each record; of one column, the values alone, unless the model takes rows."""
    records = csv_records.read(body, info.dtype)
    takes_rows = info.shape is not None and len(info.shape) > 1
    return records if takes_rows or records.shape[1] > 1 else records[:, 0]


def _bare(request: PredictRequest) -> PredictRequest:
    """The request, with an answer of one value for a record of one value where older servers give that."""
    ((name, array),) = request.inputs.items()
    is_bare = array.shape[1:] == (1,) and is_of_graph(name, request.signature.inputs[name])
    return request._replace(bare=is_bare)


def is_of_graph(name: str, info: TensorInfo) -> bool:
    """Whether an input of the default signature is of a graph of TensorFlow 1; TensorFlow 2 gives names of its own.

    Older servers send a column's values where a model wants rows. Such a graph takes any shape, and answers with
    values; what TensorFlow 2 has saved refuses them, or takes all of them for one row.
    """
    return info.name != f"{DEFAULT_SIGNATURE}_{name}:0"


def _npy_array(body: bytes, info: TensorInfo) -> Array:
    return npy.read(body, info.dtype)
