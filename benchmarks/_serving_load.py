"""The load of benchmarks/serving: as much as connections bear, by wrk, and so many requests a second, from here."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from _serving import Request, Server

# wrk's own script language. Percentiles are in microseconds.
_WRK = """
local file = io.open("{body}", "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
{headers}
function done(summary, latency, requests)
  local failed = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
  io.write(string.format('\\nDONE {{"requests": %d, "failed": %d, "p50": %d, "p99": %d}}\\n',
    summary.requests, failed, latency:percentile(50), latency:percentile(99)))
end
"""


class Load(NamedTuple):
    """What came of one: CPU and percentiles in seconds."""

    requests: int
    cpu: float
    p50: float
    p99: float

    @property
    def cpu_each(self) -> float:
        return self.cpu / self.requests


def as_much_as_it_bears(server: Server, request: Request, connections: int, seconds: int, folder: Path) -> Load:
    """Each connection asks again as soon as it is answered."""
    script, body = folder / "load.lua", folder / "body"
    body.write_bytes(request.body)
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in request.headers.items())
    script.write_text(_WRK.format(body=body, headers=headers))
    url = f"http://127.0.0.1:{server.port}/invocations"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "-s", str(script), url]
    before = server.cpu()
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    cpu = server.cpu() - before
    found = re.search(r"^DONE (.*)$", output, re.MULTILINE)
    assert found is not None, output
    numbers = json.loads(found[1])
    if numbers["failed"] or not numbers["requests"]:
        raise SystemExit(f"{url}: {numbers['failed']} of {numbers['requests']} requests failed:\n{output}")
    return Load(numbers["requests"], cpu, numbers["p50"] / 1e6, numbers["p99"] / 1e6)


def one_after_another(server: Server, request: Request, seconds: float) -> Load:
    """For requests that take so long that those which wrk does not wait for would count."""
    before, began = server.cpu(), time.monotonic()
    took: list[float] = []
    while not took or time.monotonic() < began + seconds:
        asked = time.monotonic()
        status = server.ask(request)
        if status != 200:
            raise SystemExit(f"port {server.port} answered {status}")
        took.append(time.monotonic() - asked)
    return _load(took, server.cpu() - before)


def at_rate(server: Server, request: Request, rate: float, seconds: float) -> Load:
    """Requests at fixed times, whatever becomes of those before: a slow server gains nothing by asking for a pause."""
    before = server.cpu()
    took = asyncio.run(_Paced(server.port, request).run(rate, int(rate * seconds)))
    return _load(took, server.cpu() - before)


def _load(took: list[float], cpu: float) -> Load:
    took.sort()
    return Load(len(took), cpu, took[len(took) // 2], took[len(took) * 99 // 100])


class _Paced:
    """Connections that are used again, as many as are needed at once."""

    def __init__(self, port: int, request: Request) -> None:
        self._port = port
        self._request = http_request("POST", "/invocations", request.headers, request.body)
        self._idle: deque[Connection] = deque()

    async def run(self, rate: float, count: int) -> list[float]:
        """Seconds from when each was sent, at its time to a millisecond, until its answer was there."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        tasks = []
        for number in range(count):
            due = began + number / rate
            await asyncio.sleep(due - loop.time())
            tasks.append(asyncio.create_task(self._ask()))
        took = await asyncio.gather(*tasks)
        for connection in self._idle:
            connection.close()
        return took

    async def _ask(self) -> float:
        began = time.perf_counter()
        # The one that was used last, for a server closes those that have been idle.
        connection = self._idle.pop() if self._idle else Connection(self._port)
        status, _ = await connection.ask(self._request)
        if status != 200:
            raise SystemExit(f"port {self._port} answered {status}")
        took = time.perf_counter() - began
        self._idle.append(connection)
        return took


def http_request(method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection:
    """Of a client that asks again on the same connection, or on another where the server has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        assert length is not None, head
        body = await reader.readexactly(int(length[1]))
        if re.search(rb"connection: *close", head, re.IGNORECASE):
            self.close()
        return int(head.split(b" ", 2)[1]), body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
