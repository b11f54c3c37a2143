"""Whether tensorflow_model_server has a model, as it says itself; and what is said of how it ended."""

from __future__ import annotations

import json
import re
import signal
from http.client import HTTPException

from tf_toolkit.process import Exit, signal_name
from tf_toolkit.serving.model_server_client import Client

SHOWN = 300
# In a line that says why: TensorFlow's messages may go on over several lines.
_ERROR = re.compile(r"error|check failed", re.IGNORECASE)


class Unfit(Exception):
    """It runs, and is of no use."""


def has_versions(client: Client, path: str, versions: int) -> bool:
    """Whether so many versions of a model are available there. Raises Unfit for what no model server answers."""
    try:
        status, body = client.ask("GET", path)
    except OSError:
        # It does not listen before all is loaded.
        return False
    except HTTPException as error:
        raise Unfit(f"answered GET {path} by what is no HTTP: {error!r}") from None
    try:
        states = [version["state"] for version in json.loads(body)["model_version_status"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        shown = body[:SHOWN].decode(errors="backslashreplace")
        raise Unfit(f"answered GET {path} by no status of a model, but by {status}: {shown!r}") from None
    return states.count("AVAILABLE") >= versions


def how_it_ended(end: Exit) -> str:
    """In words, with what it said itself where nobody killed it."""
    number = end.signal_number
    if number in (signal.SIGKILL, signal.SIGTERM):
        return f"was killed by {signal_name(number)}{', for want of memory' if end.oom_kills else ''}"
    lines = [line.removeprefix(end.spec.prefix).strip() for line in end.stderr.decode(errors="replace").splitlines()]
    told = [line for line in lines if _ERROR.search(line)] or list(filter(None, lines)) or ["it said nothing"]
    how = f"ended with status {end.status}" if number is None else f"died of {signal_name(number)}"
    return f"{how} ({told[-1][:SHOWN]})"
