"""The server around handlers, with models that are arithmetic in numpy: server.py FOLDER PORT_FILE [MODEL]

FOLDER is what the platform mounts at /opt/ml: the code lies in FOLDER/model/code. MODEL is a folder of a real model,
<name>/1, which is served instead. The port is written to a file when it listens.
"""

import logging
import os
import socket
import sys
import typing
from pathlib import Path

import numpy as np

from tf_toolkit.errors import ToolkitError
from tf_toolkit.serving import model_code
from tf_toolkit.serving.access_log import AccessLog
from tf_toolkit.serving.app import App
from tf_toolkit.serving.errors import ModelRunError
from tf_toolkit.serving.handled_invocations import HandledInvocations
from tf_toolkit.serving.handler_threads import HandlerThreads
from tf_toolkit.serving.handlers import Handlers
from tf_toolkit.serving.http_server import HttpServer
from tf_toolkit.serving.metrics import Metrics
from tf_toolkit.serving.models import FoundModel
from tf_toolkit.serving.registry import Registry
from tf_toolkit.serving.request import Response
from tf_toolkit.serving.rest import Rest
from tf_toolkit.serving.routes import Route, Routes
from tf_toolkit.serving.settings import read_settings
from tf_toolkit.serving.signature import DataType, Signature, TensorInfo


def signature(inputs, outputs):
    def infos(names):
        return {name: TensorInfo(f"{name}:0", dtype, None) for name, dtype in names.items()}

    return Signature(infos(inputs), infos(outputs), "tensorflow/serving/predict")


FLOAT, INT, BOOL, STRING = DataType.DT_FLOAT, DataType.DT_INT32, DataType.DT_BOOL, DataType.DT_STRING


class Arithmetic:
    """As TensorFlow Serving's half_plus_two and half_plus_three, and what else is to be tried."""

    signatures: typing.ClassVar = {
        "serving_default": signature({"x": FLOAT}, {"y": FLOAT}),
        "sum": signature({"a": INT, "b": INT}, {"sum": INT}),
        "louder": signature({"text": STRING}, {"loud": STRING}),
        "no": signature({"yes": BOOL}, {"no": BOOL}),
    }

    def __init__(self, plus):
        self.plus = plus

    async def run(self, signature, inputs, outputs=None):
        if signature == "sum":
            return {"sum": inputs["a"] + inputs["b"]}
        if signature == "louder":
            return {"loud": np.array([item.upper() for item in inputs["text"]], object)}
        if signature == "no":
            return {"no": ~inputs["yes"]}
        if (inputs["x"] < 0).any():
            raise ModelRunError("INVALID_ARGUMENT", "x must not be negative")
        return {"y": inputs["x"] * np.float32(0.5) + np.float32(self.plus)}

    def close(self):
        pass


def add(registry, name, versions):
    paths = {version: Path(str(version)) for version in versions}
    for servable in registry.add(FoundModel(name, Path(name), paths, ())):
        engine = Arithmetic(versions[servable.version])
        servable.load(lambda directory, engine=engine: (engine, engine))


def open_real(settings, directory):
    from tf_toolkit.serving.loading import open_model
    from tf_toolkit.serving.runner import Runner

    engine = open_model(directory)
    return engine, Runner(engine, settings.batching)


def handled(folder, registry, settings, threads):
    if len(sys.argv) > 3:
        model = Path(sys.argv[3])
        (servable,) = registry.add(FoundModel("half_plus_three", model, {1: model / "1"}, ()))
        servable.load(lambda directory: open_real(settings, directory))
    else:
        add(registry, "half_plus_three", {4: 4.0, 5: 3.0})
        add(registry, "half_plus_two", {1: 2.0})
    code = model_code.find(folder / "model", os.environ)
    if code is None:
        return []
    model_code.install(code, os.environ, quiet=False)
    return HandledInvocations(Handlers(code, threads), registry, "half_plus_three", settings).routes()


async def ping(request, match):
    return Response(b"")


def main():
    folder, port_file = map(Path, sys.argv[1:3])
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    settings = read_settings(os.environ)._replace(rest_port=port)
    registry, metrics = Registry(), Metrics()
    threads = HandlerThreads(settings.handler_threads)
    routes = [
        Route("/ping", "/ping", {"GET": ping}),
        *handled(folder, registry, settings, threads),
        *Rest(registry, settings.max_request_bytes).routes(),
    ]
    app = App(Routes(routes), metrics, AccessLog(enabled=False), settings.timeout)
    port_file.with_suffix(".new").write_text(str(port))
    port_file.with_suffix(".new").rename(port_file)
    HttpServer(app).run([listener])


if __name__ == "__main__":
    try:
        main()
    except ToolkitError as error:
        logging.error("%s", error)
        sys.exit(error.exit_code)
