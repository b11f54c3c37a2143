"""The process that uploads; the package's docstring is its contract."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

from tf_toolkit import contract, s3
from tf_toolkit.errors import ToolkitError
from tf_toolkit.sync import check_modules
from tf_toolkit.sync.uploads import Uploads

log = logging.getLogger("tf_toolkit")

_POLL_SECONDS = 0.1


def main(arguments: Sequence[str]) -> int:
    """The process; its exit status."""
    parent = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # IO tells who holds a lease that a writer waits for; see uploads.py.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGIO):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(format=contract.LOG_FORMAT)
    log.setLevel(int(os.environ.get("SM_LOG_LEVEL", logging.INFO)))
    directory, url = arguments
    try:
        check_modules()
        uploads = Uploads(
            os.path.realpath(directory), s3.parse(url), s3.client(os.environ.get("AWS_REGION", ""), os.environ)
        )
    except ToolkitError as error:
        log.error("intermediate output is not uploaded: %s", error)
        return 1
    try:
        _watch(uploads.directory, uploads.note)
    except OSError as error:
        log.warning("%s cannot be watched, so uploads start later: %s", directory, error.strerror)
    # Not sigtimedwait: interrupted by STOP and CONT, Python's answers as if the signal had come.
    while signal.SIGTERM not in signal.sigpending() and os.getppid() == parent:
        if not uploads.step():
            time.sleep(_POLL_SECONDS)
    uploads.finish()
    return uploads.report()


def _watch(directory: str, note: Callable[[str], None]) -> None:
    """Have ``note`` called, in a thread, with the path of what was closed after writing, created, or moved to there."""
    from watchdog import events
    from watchdog.observers import Observer

    class Handler(events.FileSystemEventHandler):
        def on_any_event(self, event: events.FileSystemEvent) -> None:
            note(os.fsdecode(event.dest_path or event.src_path))

    told = [
        events.FileClosedEvent,
        events.FileCreatedEvent,
        events.FileMovedEvent,
        events.DirCreatedEvent,
        events.DirMovedEvent,
    ]
    observer = Observer()
    observer.schedule(Handler(), directory, recursive=True, event_filter=told)
    observer.start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
