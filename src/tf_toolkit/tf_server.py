"""The process of one TensorFlow server, a parameter server or a worker: ``python -m tf_toolkit.tf_server``.

arguments     none
environment   TF_CONFIG, whose task says which server this is; SM_LOG_LEVEL, a number; and what TensorFlow reads
files         none; standard input and output are left alone, standard error has our log and TensorFlow's
signals       TERM and INT end it, before it serves as they end any process, afterwards at once and with status 0
exit status   0: TERM or INT asked it to end. 68: its address cannot be had. 78: TF_CONFIG is missing or wrong.
              Before either of the two last, one line on standard error says what is wrong.

It serves until it is told to end: TensorFlow's servers do not notice that a training is over.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
from typing import Any

from tf_toolkit import contract, tf_config
from tf_toolkit.errors import ClusterError, ToolkitError
from tf_toolkit.tf_config import Task

log = logging.getLogger("tf_toolkit")


def main() -> int:
    """The process; returns an exit status only where it cannot serve."""
    logging.basicConfig(format=contract.LOG_FORMAT)
    log.setLevel(int(os.environ.get("SM_LOG_LEVEL") or logging.INFO))
    try:
        task = tf_config.read(os.environ.get(tf_config.NAME))
        # Here too, for this takes no time, and importing TensorFlow takes seconds.
        _check_port(task)
        server = _start(task)
    except ToolkitError as error:
        # The last line of a failed process is what the job's failure says, so it bears no date.
        print(f"tf_server: {error}", file=sys.stderr)
        return error.exit_code
    log.info("%s %d serves at %s", task.job, task.number, server.target)
    _wait_for_a_signal()
    # Not sys.exit: gRPC's threads hold a process that ends in order.
    os._exit(contract.SUCCEEDED)


def _start(task: Task) -> Any:
    """The running server, which serves as long as it is referred to."""
    import tensorflow as tf

    try:
        return tf.distribute.Server(task.cluster, job_name=task.job, task_index=task.number, protocol="grpc")
    except tf.errors.OpError as error:
        _check_port(task)
        raise ClusterError(f"{task.job} {task.number} cannot serve at {task.address}: {error.message}") from error


def _check_port(task: Task) -> None:
    """Raise ClusterError where the port is taken, which TensorFlow reports as an unknown error.

    Its servers listen on all addresses of the machine, whatever their own is.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", task.port))
        except OSError as error:
            what = f"cannot be had: {error.strerror}"
            if error.errno == errno.EADDRINUSE:
                what = f"is in use: another process of this host listens at port {task.port}"
            raise ClusterError(f"address {task.address} {what}") from error


def _wait_for_a_signal() -> None:
    """Until TERM or INT; ``server.join()`` would keep Python from noticing either."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Written to by whichever thread takes the signal; a handler would have to wait for this one.
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    os.read(reader, 1)


if __name__ == "__main__":
    sys.exit(main())
