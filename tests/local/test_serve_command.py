"""`tf-toolkit serve`: the models of a folder, on this machine."""

from __future__ import annotations

import signal
import urllib.request
from pathlib import Path

from command_line import finish, one_line, start, tf_toolkit
from conftest import DEADLINE, wait_until
from hosts import free_ports


def test_a_folder_s_models_answer_until_control_c(tmp_path: Path, saved_models: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "half_plus_two").symlink_to(saved_models / "half_plus_two")
    url = f"http://127.0.0.1:{(port := free_ports(1))}"
    process = start(tmp_path, "serve", "--model-dir", "models", "--port", str(port))

    def is_ready() -> bool:
        assert process.poll() is None
        try:
            return bool(urllib.request.urlopen(f"{url}/ping", timeout=DEADLINE).status == 200)
        except OSError:
            return False

    wait_until(is_ready, "the models answer")
    request = urllib.request.Request(f"{url}/invocations", b"[1.0, 2.0]", {"Content-Type": "application/json"})
    assert urllib.request.urlopen(request, timeout=DEADLINE).read() == b'{"predictions":[[2.5,3.0]]}'
    process.send_signal(signal.SIGINT)
    assert finish(process, tmp_path).status == 0


def test_a_port_that_there_is_not(tmp_path: Path) -> None:
    result = tf_toolkit(tmp_path, "serve", "--model-dir", ".", "--port", "70000")

    assert one_line(result.log) == "tf-toolkit: error: --port 70000: a port is a number from 1 to 65535"
