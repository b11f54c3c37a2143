"""The program ``serve``: the platform runs ``docker run IMAGE serve``.

Arguments: none. Environment: README, "Serving". Reads the models under /opt/ml/model, or SAGEMAKER_BASE_DIR. Standard
output is the access log, a line of JSON for each request; standard error is our log. It listens at once, and /ping is
503 until all models answer. TERM ends it with status 0 when what is in flight has been answered; a model that cannot
be loaded ends it with 66, a setting that cannot be obeyed with 78.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tf_toolkit import contract
from tf_toolkit.errors import JobDescriptionError, ToolkitError
from tf_toolkit.hardware import cpu_count
from tf_toolkit.serving import model_code
from tf_toolkit.serving.engine import Engine
from tf_toolkit.serving.errors import ModelError
from tf_toolkit.serving.models import FoundModel, find_models
from tf_toolkit.serving.registry import Registry, Runner
from tf_toolkit.serving.settings import DEFAULT_MODEL, Settings, read_settings
from tf_toolkit.serving.sockets import listen
from tf_toolkit.serving.start_up import StartUp

if TYPE_CHECKING:
    from tf_toolkit.serving.model_server import ModelServers

log = logging.getLogger("tf_toolkit")

# New objects after which Python looks for garbage. A large JSON body is millions of lists, none of which is garbage;
# with Python's own 700, most of the time that it takes to read one would go into looking.
_GARBAGE_THRESHOLD = 100_000


def main() -> NoReturn:
    """Serve until a signal; the process ends with its status."""
    _run(lambda: read_settings(os.environ), None)


def serve_folder(folder: Path, port: int) -> NoReturn:
    """The same for the models below a folder of a person's own machine, which no other machine may ask."""
    _run(lambda: read_settings(os.environ)._replace(model_dir=folder.resolve(), port=port), "127.0.0.1")


def _run(read: Callable[[], Settings], host: str | None) -> NoReturn:
    began = time.monotonic()
    _start_log()
    for number in (signal.SIGTERM, signal.SIGINT):
        # A first process ignores signals that it has no handler for. While it serves, uvicorn has handlers of its own.
        signal.signal(number, lambda *_: sys.exit(contract.SUCCEEDED))
    status = contract.TOOLKIT_FAULT
    try:
        settings = read()
        log.setLevel(settings.log_level)
        status = serve(settings, began, host)
    except (ToolkitError, ModelError) as error:
        log.error("%s", error)
        status = error.exit_code if isinstance(error, ToolkitError) else contract.SOURCE_UNAVAILABLE
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else contract.TOOLKIT_FAULT
    except Exception:
        log.exception("serve failed")
    finally:
        # What handlers have printed, too.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        # A model may still be loading, or running, in a thread that nothing ends, and in TensorFlow's own.
        os._exit(status)


def serve(settings: Settings, began: float, host: str | None) -> int:
    """Serve until a signal, or until a model fails to load; the exit status. Without a host, on all addresses."""
    gc.set_threshold(_GARBAGE_THRESHOLD)
    for warning in settings.warnings:
        log.warning("%s", warning)
    # Of many models the platform says which, when it wants them.
    found = {} if settings.multi_model else find_models(settings.model_dir)
    default_model = "" if settings.multi_model else _default_model(found, settings.default_model)
    find = model_code.find_common if settings.multi_model else model_code.find
    code = find(settings.model_dir, os.environ)
    if code is not None:
        # Before anything is imported that it may replace.
        model_code.install(code, os.environ, quiet=settings.log_level > logging.INFO)
    sockets = listen(settings, host)
    # Where a handler finds the REST API.
    settings = settings._replace(rest_port=sockets[-1].getsockname()[1])
    registry = Registry()
    servables = [servable for model in found.values() for servable in registry.add(model)]
    with _model_servers(settings, found) as model_servers:
        load = functools.partial(_load, settings) if model_servers is None else model_servers.load
        start_up = StartUp(servables, load, settings.load_time, began)
        # Models load in the meantime.
        from tf_toolkit.serving.assembly import make_server

        server = make_server(registry, default_model, load, settings, code, model_servers)
        start_up.when_failed(server.stop)
        log.info("listening on ports %s", ", ".join(str(each.getsockname()[1]) for each in sockets))
        server.run(sockets)
    return contract.SOURCE_UNAVAILABLE if start_up.failed else contract.SUCCEEDED


@contextlib.contextmanager
def _model_servers(settings: Settings, found: Mapping[str, FoundModel]) -> Iterator[ModelServers | None]:
    """TensorFlow Serving's own servers, where models are to run in those; they end with the block."""
    if settings.model_server is None:
        yield None
        return
    from tf_toolkit.serving.model_server import ModelServers

    with contextlib.closing(ModelServers(settings, settings.model_server, found)) as model_servers:
        yield model_servers


def _default_model(found: Mapping[str, FoundModel], name: str | None) -> str:
    """The one that is set, or the first by name."""
    for model in found.values():
        for folder in model.empty:
            log.warning("%s is no version of %s: there is no saved_model.pb in it", folder, model.name)
    if name is not None and name not in found:
        raise JobDescriptionError(f"{DEFAULT_MODEL} is {name!r}; the models are: {', '.join(found)}")
    return name or next(iter(found))


def _load(settings: Settings, directory: Path) -> tuple[Engine, Runner]:
    """In a thread of its own: a model that has answered its first requests."""
    from tf_toolkit.serving.loading import open_model
    from tf_toolkit.serving.runner import Runner
    from tf_toolkit.serving.warm_up import warm_up

    # TensorFlow itself looks at the CPUs of the machine, whatever share of their time a container has.
    cpus = cpu_count()
    intra_op = settings.intra_op_threads or _unless_set("TF_NUM_INTRAOP_THREADS", cpus)
    inter_op = settings.inter_op_threads or _unless_set("TF_NUM_INTEROP_THREADS", cpus)
    engine = open_model(directory, intra_op, inter_op)
    warm_up(engine, directory)
    return engine, Runner(engine, settings.batching)


def _unless_set(variable: str, threads: int) -> int:
    """The number for TensorFlow, which reads that variable where there is none."""
    return 0 if os.environ.get(variable) else threads


def _start_log() -> None:
    logging.raiseExceptions = False
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(contract.LOG_FORMAT))
    for name in ("tf_toolkit", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False
    log.setLevel(logging.INFO)


if __name__ == "__main__":
    main()
