"""The user's handlers: which functions of the program they are, and a request's way through them.

Either ``handler(data, context)``, or ``input_handler(data, context)`` and ``output_handler(answer, context)`` around a
call of the model's REST API, which takes place without HTTP. ``data`` is a stream of the body.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from tf_toolkit.errors import ExecuteUserScriptError
from tf_toolkit.serving.context import Context
from tf_toolkit.serving.errors import RequestError
from tf_toolkit.serving.handler_threads import HandlerThreads
from tf_toolkit.serving.media_types import JSON
from tf_toolkit.serving.model_answer import ModelAnswer
from tf_toolkit.serving.model_code import ModelCode
from tf_toolkit.serving.model_modules import load
from tf_toolkit.serving.request import Response, refusal

log = logging.getLogger("tf_toolkit")

_HANDLER, _INPUT, _OUTPUT = "handler", "input_handler", "output_handler"
# What the model's REST API answers to a body; raises RequestError.
Ask = Callable[[bytes], Coroutine[Any, Any, bytes]]


class _Functions(NamedTuple):
    handler: Callable[[Any, Context], Any] | None
    input_handler: Callable[[Any, Context], Any] | None
    output_handler: Callable[[Any, Context], Any] | None


class Handlers:
    """The handlers of a program. Of one request all run in one thread, and requests beside one another."""

    def __init__(self, code: ModelCode, threads: HandlerThreads, apart: bool = False) -> None:
        """Import them; ``apart`` keeps the modules of several models apart. Raises ExecuteUserScriptError."""
        self._program = code.program
        self._functions = _choose(load(code, apart), code.program)
        self._threads = threads

    async def answer(self, body: bytes, context: Context, ask: Ask) -> Response:
        """What they make of a request; whatever they raise is an answer too, but for RequestError and MemoryError."""
        loop = asyncio.get_running_loop()
        return await self._threads.run(lambda: self._answer(body, context, ask, loop))

    def _answer(self, body: bytes, context: Context, ask: Ask, loop: asyncio.AbstractEventLoop) -> Response:
        try:
            return self._call(body, context, lambda sent: asyncio.run_coroutine_threadsafe(ask(sent), loop).result())
        except (RequestError, MemoryError) as error:
            # Of context.predict, or what is answered the same wherever it comes from.
            log.error("%s: %s: %s", self._program, type(error).__name__, error, exc_info=True)
            raise
        except BaseException as error:
            # sys.exit() too: it ends the request, and neither the server nor the thread.
            log.error("%s: %s: %s", self._program, type(error).__name__, error, exc_info=True)
            return _failure(error)

    def _call(self, body: bytes, context: Context, ask: Callable[[bytes], bytes]) -> Response:
        handler, input_handler, output_handler = self._functions
        data = io.BytesIO(body)
        if handler is not None:
            return _response(_HANDLER, handler(data, context), context)
        assert input_handler is not None and output_handler is not None
        sent = _body(_INPUT, input_handler(data, context))
        try:
            answered = Response(ask(sent))
        except RequestError as error:
            answered = refusal(error.status, error.message)
        headers = {"Content-Type": answered.content_type, "Content-Length": str(len(answered.body))}
        answer = ModelAnswer(context.rest_uri, answered.status, answered.body, headers)
        return _response(_OUTPUT, output_handler(answer, context), context)


def _choose(module: ModuleType, program: Path) -> _Functions:
    """``handler`` if there is one, else the pair."""
    functions = {name: getattr(module, name, None) for name in _Functions._fields}
    found = {name: function for name, function in functions.items() if callable(function)}
    for name, function in found.items():
        if inspect.iscoroutinefunction(function):
            raise ExecuteUserScriptError(f"{program}: {name} is an async def; make it a def, which has its own thread")
    if _HANDLER in found:
        return _Functions(found[_HANDLER], None, None)
    if len(found) == 1:
        (one,) = found
        other = _OUTPUT if one == _INPUT else _INPUT
        raise ExecuteUserScriptError(f"{program} defines {one} but no {other}; define both, or {_HANDLER}")
    if not found:
        raise ExecuteUserScriptError(f"{program} defines no handler; define {_HANDLER}, or {_INPUT} and {_OUTPUT}")
    return _Functions(None, found[_INPUT], found[_OUTPUT])


def _body(name: str, result: Any) -> bytes:
    """What ``input_handler`` wants to be sent to the model: text, bytes, a stream, or a dict for JSON."""
    if hasattr(result, "read"):
        result = result.read()
    return _bytes(name, json.dumps(result) if isinstance(result, dict) else result, "a str, bytes or a dict")


def _response(name: str, result: Any, context: Context) -> Response:
    """A pair of a body and its content type, or a body alone, which is of the type that was asked for."""
    body, content_type = result if isinstance(result, (tuple, list)) and len(result) == 2 else (result, None)
    expected = "a pair of a str or bytes and its content type"
    return Response(_bytes(name, body, expected), _content_type(name, content_type or context.accept_header))


def _bytes(name: str, body: Any, expected: str) -> bytes:
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise TypeError(f"{name} returned a {type(body).__name__}; expected {expected}")


def _content_type(name: str, value: Any) -> str:
    """Handlers pass an Accept on, which may be a list or a range: then the first type in it, or JSON."""
    if not isinstance(value, str) or not value.isprintable() or not value.isascii():
        raise TypeError(f"{name} returned {value!r} for a content type; expected such as {JSON!r}")
    if "," not in value and "*" not in value:
        return value
    names = (part.partition(";")[0].strip() for part in value.split(","))
    return next((name for name in names if name and "*" not in name), JSON)


def _failure(error: BaseException) -> Response:
    """500, with what it says: its JSON if it is a ValueError with an object of JSON, as documented samples raise."""
    if isinstance(error, SystemExit):
        return refusal(500, f"the handler called sys.exit({error.code!r})")
    text = str(error)
    if isinstance(error, ValueError) and text.lstrip().startswith("{"):
        try:
            json.loads(text)
            return Response(text.encode(errors="replace"), JSON, 500)
        except (ValueError, RecursionError):
            # Text like any other.
            pass
    return refusal(500, text or type(error).__name__)
