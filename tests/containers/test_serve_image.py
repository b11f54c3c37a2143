"""`docker run IMAGE serve`: an endpoint on the models that are mounted."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Any

import docker
import pytest
from docker_hosts import TENSORFLOWS, image

from conftest import PROGRAMS, wait_until

pytestmark = pytest.mark.containers

CSV = {"Content-Type": "text/csv"}
# May do nothing, and write nowhere but to /tmp.
LITTLE = {"user": "1000", "read_only": True, "tmpfs": {"/tmp": ""}, "cap_drop": ["ALL"]}


class Endpoint:
    def __init__(self, models: Path, tensorflow: str, code: Path | None = None) -> None:
        client = docker.from_env()
        volumes = {str(models): {"bind": "/opt/ml/model/half_plus_three", "mode": "ro"}}
        if code is not None:
            volumes[str(code)] = {"bind": "/opt/ml/model/code/inference.py", "mode": "ro"}
        self.container: Any = client.containers.run(image(tensorflow), "serve", detach=True, volumes=volumes, **LITTLE)
        self.container.reload()
        (network,) = self.container.attrs["NetworkSettings"]["Networks"].values()
        self._address = network["IPAddress"]

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        print(self.container.logs().decode())
        self.container.remove(force=True)

    def ask(self, method: str, path: str, body: bytes | None = None, port: int = 8080) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._address, port, timeout=60)
        connection.request(method, path, body, CSV)
        response = connection.getresponse()
        return response.status, response.read()

    def is_ready(self) -> bool:
        self.container.reload()
        assert self.container.status == "running"
        try:
            return self.ask("GET", "/ping") == (200, b"")
        except OSError:
            return False


@pytest.mark.parametrize("tensorflow", TENSORFLOWS)
@pytest.mark.parametrize("handler", [None, "pair.py"])
def test_it_answers_on_both_ports_until_docker_stop(saved_models: Path, tensorflow: str, handler: str | None) -> None:
    code = handler and PROGRAMS / "serving" / "handlers" / handler
    with Endpoint(saved_models / "half_plus_three", tensorflow, code or None) as endpoint:
        wait_until(endpoint.is_ready, "the endpoint is ready", 300)

        for port in (8080, 8501):
            status, body = endpoint.ask("POST", "/invocations", b"1.0,2.0,5.0", port)
            # The documented handler makes an instance of each number.
            predictions = b"[3.5,4.0,5.5]" if handler else b"[[3.5,4.0,5.5]]"
            assert (status, body) == (200, b'{"predictions":%s}' % predictions)
        endpoint.container.stop(timeout=300)
        assert endpoint.container.wait()["StatusCode"] == 0
