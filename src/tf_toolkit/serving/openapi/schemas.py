"""JSON Schemas of what a model takes and gives, from the types and shapes of its signatures.

A schema is what the signature promises. Many models take more, such as other shapes, and are given it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tf_toolkit.serving.expectation import BYTES_SUFFIX
from tf_toolkit.serving.json_arrays import BASE64_KEY, FLOATS, INTEGERS, integer_range
from tf_toolkit.serving.json_faults import type_name
from tf_toolkit.serving.signature import DEFAULT_SIGNATURE, NUMPY_TYPES, DataType, Signature, TensorInfo

Schema = dict[str, Any]

# What JSON has values for.
_JSON_TYPES = FLOATS | INTEGERS | {DataType.DT_BOOL, DataType.DT_STRING}
_WORDS = "NaN, Infinity and -Infinity are written as these words, which are no JSON"


def reference(kind: str, name: str) -> Schema:
    """What stands under this name among the components of that kind."""
    return {"$ref": f"#/components/{kind}/{name}"}


def elements() -> dict[str, Schema]:
    """The schemas of single values, by their types' names: what the others refer to."""
    floats = {type_name(dtype): _float(dtype) for dtype in sorted(FLOATS)}
    integers = {type_name(dtype): _integer(dtype) for dtype in sorted(INTEGERS)}
    base64 = {
        "type": "object",
        "description": "bytes",
        "properties": {BASE64_KEY: {"type": "string", "pattern": "^([A-Za-z0-9+/]{4})*$"}},
        "required": [BASE64_KEY],
        "additionalProperties": False,
    }
    return {
        **floats,
        **integers,
        "bool": {"type": "boolean"},
        "string": {"anyOf": [{"type": "string"}, reference("schemas", "base64")]},
        "base64": base64,
        "number": {"type": "number", "description": _WORDS},
    }


def _float(dtype: DataType) -> Schema:
    largest = float(np.finfo(NUMPY_TYPES[dtype]).max)
    return {
        "type": "number",
        "format": type_name(dtype),
        "description": "a whole number that the type does not hold exactly has a point or an exponent",
        "minimum": -largest,
        "maximum": largest,
    }


def _integer(dtype: DataType) -> Schema:
    smallest, largest = integer_range(dtype)
    return {"type": "integer", "format": type_name(dtype), "minimum": smallest, "maximum": largest}


def in_json(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether there are any, and JSON for all of them."""
    return bool(tensors) and all(info.dtype in _JSON_TYPES for info in tensors.values())


def in_rows(signature: Signature) -> bool:
    """Whether all of it has rows, as many of each as far as the shapes tell."""
    shapes = [info.shape for info in (*signature.inputs.values(), *signature.outputs.values())]
    sizes = {info.shape[0] for info in signature.outputs.values() if info.shape}
    return all(shape is None or shape for shape in shapes) and len(sizes) <= 1


def array(shape: Sequence[int] | None, element: Schema) -> Schema:
    """Lists in lists of that shape."""
    if shape is None:
        return {"anyOf": [element, {"type": "array", "description": "of any number of dimensions"}]}
    schema = element
    for place, size in enumerate(reversed(shape)):
        schema = {"type": "array", "items": schema}
        if size >= 0:
            schema.update(minItems=size, maxItems=size)
        elif place:
            # Of no element nothing tells what the other dimensions are.
            schema["minItems"] = 1
    return schema


def of_rows(shape: Sequence[int] | None, row: Schema) -> Schema:
    """As many rows as an array of this shape has, which are not none."""
    return {"minItems": 1, **array(shape[:1] if shape else (-1,), row)}


def row_shape(info: TensorInfo) -> tuple[int, ...] | None:
    return None if info.shape is None else info.shape[1:]


def taken(info: TensorInfo, shape: Sequence[int] | None) -> Schema:
    """A value of an input, or a row of it."""
    return array(shape, reference("schemas", type_name(info.dtype)))


def given(name: str, info: TensorInfo, shape: Sequence[int] | None) -> Schema:
    """A value of an output, or a row of it."""
    if info.dtype is DataType.DT_STRING:
        return array(shape, reference("schemas", "base64" if name.endswith(BYTES_SUFFIX) else "string"))
    kind = "number" if info.dtype in FLOATS else type_name(info.dtype)
    return array(shape, reference("schemas", kind))


def named(values: Mapping[str, Schema], *, all_of_them: bool = True) -> Schema:
    """An object of these members."""
    required = {"required": sorted(values)} if all_of_them else {}
    return {"type": "object", "properties": dict(values), **required, "additionalProperties": False}


def any_of(schemas: Iterable[Schema]) -> Schema:
    """One of these, each once, and of a choice each that it has."""
    different: list[Schema] = []
    for schema in schemas:
        for choice in schema["anyOf"] if schema.keys() == {"anyOf"} else [schema]:
            if choice not in different:
                different.append(choice)
    return different[0] if len(different) == 1 else {"anyOf": different}


def _alone_or_named(values: Mapping[str, Schema]) -> list[Schema]:
    """What comes with its name, or without where it is the only one."""
    return [*(values.values() if len(values) == 1 else ()), named(values)]


def rows_taken(signature: Signature) -> dict[str, Schema]:
    """A row of each input."""
    return {name: taken(info, row_shape(info)) for name, info in signature.inputs.items()}


def request(name: str, properties: Mapping[str, Schema], *required: str) -> Schema:
    """An object for the signature of that name, which is named unless it is the default. Other keys have no effect."""
    names = [*required, *(() if name == DEFAULT_SIGNATURE else ("signature_name",))]
    return {"type": "object", "properties": {"signature_name": {"const": name}, **properties}, "required": names}


def predict_request(signatures: Mapping[str, Signature]) -> Schema:
    """The body of a request to predict, for any of the signatures."""
    return any_of(schema for name, signature in signatures.items() for schema in _predict_requests(name, signature))


def _predict_requests(name: str, signature: Signature) -> Iterable[Schema]:
    wanted = {"output_filter": {"type": "array", "items": {"enum": list(signature.outputs)}}}
    if in_rows(signature):
        first = next(iter(signature.inputs.values())).shape
        rows = any_of(of_rows(first, row) for row in _alone_or_named(rows_taken(signature)))
        yield {"title": f"{name}, in rows", **request(name, {"instances": rows, **wanted}, "instances")}
    alone_or_named = _alone_or_named({key: taken(info, info.shape) for key, info in signature.inputs.items()})
    # Of an object in columns, other names have no effect.
    columns = any_of([*alone_or_named[:-1], {**alone_or_named[-1], "additionalProperties": True}])
    yield {"title": f"{name}, in columns", **request(name, {"inputs": columns, **wanted}, "inputs")}


def predict_answer(signatures: Mapping[str, Signature]) -> Schema:
    """The body of its answer. Of one output the name is left out, also where others are filtered out."""
    return any_of(schema for signature in signatures.values() for schema in _predict_answers(signature))


def _predict_answers(signature: Signature) -> Iterable[Schema]:
    outputs = signature.outputs
    if in_rows(signature):
        rows = {name: given(name, info, row_shape(info)) for name, info in outputs.items()}
        first = next(iter(outputs.values())).shape
        yield named({"predictions": of_rows(first, _some_of(rows))})
    yield named({"outputs": _some_of({name: given(name, info, info.shape) for name, info in outputs.items()})})


def _some_of(outputs: Mapping[str, Schema]) -> Schema:
    several = [named(outputs, all_of_them=False)] if len(outputs) > 1 else []
    return any_of([*outputs.values(), *several])


def simplified(signature: Signature) -> Schema:
    """The bodies of /invocations that are instances alone: one, or a list of them.

    A list of lists is many instances, so that one which is itself a list of lists does not stand alone.
    """
    rows = rows_taken(signature)
    found = [named(rows), of_rows(None, named(rows))]
    if len(rows) == 1:
        ((name, row),) = rows.items()
        shape = row_shape(signature.inputs[name])
        alone = [row] if shape is None or len(shape) < 2 else []
        found += [*alone, of_rows(None, row)]
    return any_of(found)
