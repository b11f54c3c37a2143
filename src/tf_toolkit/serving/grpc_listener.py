"""The port for gRPC, and the channel to it, which handlers find in their context.

Until one asks for them there is neither, nor is the package grpc imported. Its requests run as those over HTTP do.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import socket
import threading
from collections.abc import Coroutine
from functools import partial
from typing import Any, NamedTuple

from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import RequestError
from tf_toolkit.serving.grpc_service import NAME, Method, PredictionService, code
from tf_toolkit.serving.registry import Registry
from tf_toolkit.serving.settings import TIMEOUT, Settings

log = logging.getLogger("tf_toolkit")

# Only for who is here already: programs that the platform knows ask over HTTP.
_HOST = "127.0.0.1"
# Each waits for an answer of its own.
_THREADS = 64
# gRPC counts the bytes of a message in 32 bits.
_MOST_BYTES = (1 << 31) - 1
_NO_LIMIT = -1
# What is wrong is told in a header, of which there may be 8 KiB in all.
_LONGEST_MESSAGE = 2000


class Opened(NamedTuple):
    port: str
    # Of the package grpc.
    channel: Any


class GrpcListener:
    """Opens them once, and as long as the process lives."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._methods = PredictionService(registry).methods()
        self._settings = settings
        self._lock = threading.Lock()
        self._opened: Opened | None = None
        # It ends when nobody has it any more.
        self._server: Any = None

    def opened(self, loop: asyncio.AbstractEventLoop) -> Opened:
        """The port and the channel; models run on ``loop``, which must not be the caller's. Raises ImportError."""
        with self._lock:
            if self._opened is None:
                self._opened = self._open(loop)
            return self._opened

    def _open(self, loop: asyncio.AbstractEventLoop) -> Opened:
        try:
            import grpc
        except ImportError as error:
            raise ImportError(
                f"context.channel and context.grpc_port need the package grpcio, which cannot be imported: {error}; "
                "name it in code/requirements.txt, or put it into code/lib"
            ) from error
        limit = min(self._settings.max_request_bytes, _MOST_BYTES)
        server = self._server = grpc.server(
            concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="grpc"),
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", _NO_LIMIT),
                # Or a port that another program has would do.
                ("grpc.so_reuseport", 0),
            ],
        )
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(partial(self._answer, grpc, method, loop))
            for name, method in self._methods.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
        port = server.add_insecure_port(f"{_HOST}:{_free(self._settings.grpc_port)}")
        server.start()
        log.info("listening for gRPC on port %d of %s", port, _HOST)
        channel = grpc.insecure_channel(
            f"{_HOST}:{port}",
            options=[
                ("grpc.max_receive_message_length", _NO_LIMIT),
                ("grpc.max_send_message_length", _NO_LIMIT),
                # Which a container may have for what is outside.
                ("grpc.enable_http_proxy", 0),
            ],
        )
        return Opened(str(port), _kept_open(grpc, channel))

    def _answer(self, grpc: Any, method: Method, loop: asyncio.AbstractEventLoop, message: bytes, rpc: Any) -> bytes:
        """In a thread of the server, whose answer to ``rpc`` this is."""
        try:
            return method(message, partial(self._wait, rpc, loop))
        except RequestError as error:
            status = getattr(grpc.StatusCode, code(error), grpc.StatusCode.INTERNAL)
            text = error.message.encode(errors="replace").decode()
            rpc.abort(status, text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}...")
            raise

    def _wait(
        self, rpc: Any, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, dict[str, Array]]
    ) -> dict[str, Array]:
        """What comes of it on the event loop. It is given up when the client has."""
        running = asyncio.run_coroutine_threadsafe(work, loop)
        if not rpc.add_callback(running.cancel):
            running.cancel()
        seconds = self._settings.timeout
        try:
            return running.result(seconds)
        except concurrent.futures.TimeoutError:
            running.cancel()
            raise RequestError(504, f"no answer within {seconds:g} s, which {TIMEOUT} sets") from None
        except concurrent.futures.CancelledError:
            raise RequestError(504, "the client has given up") from None


def _kept_open(grpc: Any, channel: Any) -> Any:
    """The channel, which a handler that closes it does not take from other requests."""

    class Channel(grpc.Channel):  # type: ignore[misc]
        subscribe, unsubscribe = channel.subscribe, channel.unsubscribe
        unary_unary, unary_stream = channel.unary_unary, channel.unary_stream
        stream_unary, stream_stream = channel.stream_unary, channel.stream_stream

        def close(self) -> None:
            pass

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    return Channel()


def _free(port: int) -> int:
    """The port, or where another program has it, any: 0. gRPC itself would say so in the log."""
    try:
        socket.create_server((_HOST, port)).close()
    except OSError:
        return 0
    return port
