"""uvicorn, as the platform needs it: TERM lets what is in flight end, and a second signal ends the process at once."""

from __future__ import annotations

import logging
import os
import socket
from functools import partial
from types import FrameType

import uvicorn

import tf_toolkit
from tf_toolkit.contract import SIGNAL_BASE
from tf_toolkit.serving.app import App
from tf_toolkit.serving.protocol import Protocol

# The platform sends KILL 30 s after TERM.
_DRAIN_SECONDS = 25


class HttpServer(uvicorn.Server):
    """One server on several sockets."""

    def __init__(self, app: App) -> None:
        # What it has to say of single requests is in the access log.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        config = uvicorn.Config(
            app.answer,
            # In place of what makes a protocol of uvicorn's own out of what it passes, and calls an ASGI application.
            interface="asgi3",
            http=partial(Protocol, app),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            headers=[("server", f"tf-toolkit/{tf_toolkit.__version__}")],
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
        super().__init__(config)
        self._app = app
        self._signalled = False

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal, or ``stop``."""
        try:
            super().run(sockets)
        finally:
            self._app.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """In the handler of a signal."""
        if self._signalled:
            os._exit(SIGNAL_BASE + sig)
        self._signalled = True
        super().handle_exit(sig, frame)

    def stop(self) -> None:
        """From any thread: end as after TERM."""
        self.should_exit = True
