"""The engine on a Session of `tensorflow` in Python: where TensorFlow's C API cannot be loaded.

It reads TF1 and TF2 models, as TensorFlow Serving does. A Session refuses what does not fit the shapes of the graph,
and the API does not: [1.0, 2.0, 5.0] is fed to a tensor of the shape [?, 1]. So each input gets a place of any shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_toolkit.serving import checks, saved_model
from tf_toolkit.serving.c_library import CODES
from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import ModelError, ModelRunError
from tf_toolkit.serving.signature import NUMPY_TYPES, DataType, Signature, TensorInfo

# Where a SavedModel says what is to run before the first request: in TF2, in TF1, and before there was a constant.
_INIT_SIGNATURE = "__saved_model_init_op"
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
_ASSETS_COLLECTION = "saved_model_assets"
_FEED_PREFIX = "tf_toolkit_feed"


def load(directory: Path, intra_op: int = 0, inter_op: int = 0) -> SessionEngine:
    """The model of that directory; 0 threads are as many as TensorFlow likes. Raises ModelError."""
    import tensorflow as tf

    signatures = saved_model.read(directory)
    options = tf.compat.v1.GPUOptions(allow_growth=True)
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=intra_op,
        inter_op_parallelism_threads=inter_op,
        allow_soft_placement=True,
        gpu_options=options,
    )
    try:
        return SessionEngine(signatures, *_restored(directory, config, signatures))
    except (tf.errors.OpError, ValueError, KeyError) as error:
        raise ModelError(f"{directory}: TensorFlow cannot load this model: {_one_line(error)}") from error


def _restored(directory: Path, config: Any, signatures: Mapping[str, Signature]) -> tuple[Any, Mapping[str, str]]:
    """A session with the model in it, and the names of the places to feed, by the tensors that they stand for."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    v1 = tf.compat.v1
    message = saved_model_pb2.SavedModel.FromString((directory / saved_model.FILE_NAME).read_bytes())
    meta_graph = next(graph for graph in message.meta_graphs if graph.meta_info_def.tags == [saved_model.SERVE_TAG])
    inputs = {info.name: info for signature in signatures.values() for info in signature.inputs.values() if info.name}
    feeds = _any_shape(meta_graph.graph_def, inputs)
    session = v1.Session(graph=tf.Graph(), config=config)
    with session.graph.as_default():
        saver = v1.train.import_meta_graph(meta_graph)
        variables = directory / "variables" / "variables"
        if saver is not None and variables.with_suffix(".index").exists():
            saver.restore(session, str(variables))
        for name in _first_operations(meta_graph):
            session.run(session.graph.get_operation_by_name(name), _assets(directory, meta_graph))
    return session, feeds


def _any_shape(graph: Any, inputs: Mapping[str, TensorInfo]) -> Mapping[str, str]:
    """Make the inputs ones that take any shape; where to feed those for which that is another place.

    Such a place is the input itself where it is not fed: other signatures begin before it.
    """
    placeholders = {f"{node.name}:0": node for node in graph.node if node.op == "Placeholder"}
    feeds = {name: f"{_FEED_PREFIX}/{number}" for number, name in enumerate(inputs) if name not in placeholders}
    for node in graph.node:
        for place, source in enumerate(node.input):
            name = source if ":" in source or source.startswith("^") else f"{source}:0"
            if name in feeds:
                node.input[place] = feeds[name]
    nodes = [placeholders[name] for name in inputs if name in placeholders]
    for name, feed in feeds.items():
        nodes.append(graph.node.add(name=feed, op="PlaceholderWithDefault", input=[name.removesuffix(":0")]))
        nodes[-1].attr["dtype"].type = inputs[name].dtype
    for node in nodes:
        node.attr["shape"].shape.Clear()
        node.attr["shape"].shape.unknown_rank = True
        node.attr.pop("_output_shapes", None)
    return {name: f"{feed}:0" for name, feed in feeds.items()}


def _assets(directory: Path, meta_graph: Any) -> dict[str, str]:
    """The files to feed to what is run first, by the tensors that take their names."""
    from tensorflow.core.protobuf.meta_graph_pb2 import AssetFileDef

    assets = list(meta_graph.asset_file_def)
    # Where TF1 has them.
    for packed in meta_graph.collection_def[_ASSETS_COLLECTION].any_list.value:
        assets.append(AssetFileDef())
        packed.Unpack(assets[-1])
    return {asset.tensor_info.name: str(directory / "assets" / asset.filename) for asset in assets}


def _first_operations(meta_graph: Any) -> list[str]:
    if _INIT_SIGNATURE in meta_graph.signature_def:
        return [meta_graph.signature_def[_INIT_SIGNATURE].outputs[_INIT_SIGNATURE].name]
    for collection in _INIT_COLLECTIONS:
        if collection in meta_graph.collection_def:
            return list(meta_graph.collection_def[collection].node_list.value)
    return []


class SessionEngine:
    """An Engine."""

    def __init__(self, signatures: Mapping[str, Signature], session: Any, feeds: Mapping[str, str]) -> None:
        self.signatures = signatures
        self._session: Any = session
        self._feeds = feeds

    def run(
        self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        import tensorflow as tf

        session = self._session
        if session is None:
            raise checks.unloaded()
        found = checks.signature_named(self.signatures, signature)
        checks.all_inputs(signature, found.inputs, inputs)
        # What is an input and an output too is taken where it is fed.
        fetches = {name: self._feeds.get(info.name, info.name) for name, info in checks.fetched(found, outputs).items()}
        feeds = {
            self._feeds.get(info.name, info.name): _fit(name, inputs[name], info) for name, info in found.inputs.items()
        }
        try:
            values = session.run(fetches, feeds)
        except tf.errors.OpError as error:
            raise ModelRunError(CODES[error.error_code], error.message) from error
        except (TypeError, ValueError, KeyError) as error:
            raise ModelRunError("INVALID_ARGUMENT", _one_line(error)) from error
        return {name: _array(value) for name, value in values.items()}

    def close(self) -> None:
        # Runs hold the session, so that it is freed only after the last.
        self._session = None


def _fit(name: str, array: Array, info: TensorInfo) -> Array:
    if info.dtype == DataType.DT_STRING:
        return np.array(checks.strings(name, array), object).reshape(array.shape)
    if array.dtype != NUMPY_TYPES.get(info.dtype):
        raise checks.unfit(name, array, info.dtype)
    return array


def _array(value: Any) -> Array:
    """A Session gives what has no dimensions as a number, or as bytes."""
    return np.array(value, object if isinstance(value, bytes) else None)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
