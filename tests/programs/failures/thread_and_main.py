"""A thread dies while the program fails for another reason; a process and an exit handler follow."""

import atexit
import multiprocessing
import threading


def fail(what: str) -> None:
    raise ValueError(f"{what} failed")


def at_exit() -> None:
    for other in (threading.Thread, multiprocessing.get_context("fork").Process):
        helper = other(target=fail, args=(other.__name__,))
        helper.start()
        helper.join()
    fail("exit handler")


atexit.register(at_exit)
raise RuntimeError("bad learning rate")
