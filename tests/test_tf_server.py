"""A real TensorFlow server as a process of its own: how it serves, how it ends, what it says when it cannot serve."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import DEADLINE, wait_until
from hosts import free_ports
from tf_toolkit import tf_config

# The Python of an environment with TensorFlow 2.15, where there is one beside the installed TensorFlow.
PYTHONS = [python for python in (sys.executable, os.environ.get("TF_TOOLKIT_TEST_TF215_PYTHON")) if python]
TENSORFLOW_DEADLINE = 2 * DEADLINE
ASK = """\
import sys
import tensorflow as tf
tf.config.experimental_connect_to_host(sys.argv[1], job_name="ps")
with tf.device("/job:ps/task:0"):
    print("42 is", int(tf.constant(40) + 2))
print("GPUs:", [device for device in tf.config.list_logical_devices("GPU") if "ps" in device.name])
"""


@pytest.fixture
def address() -> Iterator[str]:
    yield f"127.0.0.1:{free_ports(1)}"


class Server:
    def __init__(self, log: Path, text: str, python: str = sys.executable) -> None:
        self.log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [python, "-m", "tf_toolkit.tf_server"],
                env={"PATH": os.environ["PATH"], "TF_CONFIG": text, "CUDA_VISIBLE_DEVICES": "-1"},
                cwd=log.parent,
                stderr=stderr,
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def status(self) -> int:
        return self.process.wait(TENSORFLOW_DEADLINE)


def parameter_server(address: str) -> str:
    return tf_config.write({"chief": ["127.0.0.1:1"], "ps": [address]}, "ps", 0)


@pytest.mark.parametrize("python", PYTHONS)
def test_it_computes_for_others_until_it_is_told_to_end(tmp_path: Path, address: str, python: str) -> None:
    server = Server(tmp_path / "log", parameter_server(address), python)
    try:
        wait_until(lambda: f"ps 0 serves at grpc://{address}\n" in server.said(), "it serves", TENSORFLOW_DEADLINE)
        asked = subprocess.run(
            [python, "-c", ASK, address], stdout=subprocess.PIPE, text=True, check=True, timeout=TENSORFLOW_DEADLINE
        )
        assert asked.stdout == "42 is 42\nGPUs: []\n"

        server.process.send_signal(signal.SIGTERM)
        # Not the TENSORFLOW_DEADLINE: nothing has to be imported for that.
        assert server.process.wait(5.0) == 0
    finally:
        server.process.kill()


def test_a_port_that_is_taken(tmp_path: Path, address: str) -> None:
    with socket.socket() as other:
        # Another address of the machine, which TensorFlow's server would listen at too.
        other.bind(("127.0.0.9", int(address.rpartition(":")[2])))
        other.listen()
        server = Server(tmp_path / "log", parameter_server(address))
        assert server.status() == 68
    port = address.rpartition(":")[2]
    assert server.said() == (
        f"tf_server: address {address} is in use: another process of this host listens at port {port}\n"
    )


def test_without_a_task(tmp_path: Path) -> None:
    server = Server(tmp_path / "log", "")
    assert server.status() == 78
    assert server.said().startswith("tf_server: TF_CONFIG is not set; expected such as {")
    assert server.said().count("\n") == 1
