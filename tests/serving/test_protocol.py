"""HTTP as it should not be: too large, too slow, cut off, or none at all. The server answers, and lives."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import wait_until
from serve_process import Server, answer, serving

LIMIT = 200_000
TIMEOUT = 2
POST = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server(saved_models: Path, slow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = {"half_plus_two": saved_models / "half_plus_two", "slow": slow_model}
    with serving(
        tmp_path_factory.mktemp("server") / "ml",
        models,
        SAGEMAKER_MAX_REQUEST_SIZE=str(LIMIT),
        SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS=str(TIMEOUT),
    ) as started:
        yield started
        assert started.process.poll() is None


@pytest.fixture(autouse=True)
def lives_on(server: Server) -> Iterator[None]:
    yield
    assert server.get("/ping").status == 200
    assert server.invoke("[1.0]").json == {"predictions": [[2.5]]}


def ended(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            data += part
    return data


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /p\xc3\xa9 HTTP/1.1\r\n\r\n",
        b"FETCH /ping HTTP/1.1\r\n\r\n",
        b"GET /ping HTTP/9.9\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nbad name: x\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nfolded: x\r\n y\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nnul: \x00\r\n\r\n",
        b"CONNECT localhost:22 HTTP/1.1\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n[1.0]",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n[1.0]",
        POST + b"Content-Length: 99999999999999999999999999\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n[1.0]",
        POST + b"Content-Length: 5, 5\r\n\r\n[1.0]",
        POST + b"Content-Length: +5\r\n\r\n[1.0]",
        POST + b"Content-Length : 5\r\n\r\n[1.0]",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n5\r\n[1.0]\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n5\r\n[1.0]\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n5\r\n[1.0]\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nnothex\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"F" * 17 + b"\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n[1.0]more\r\n0\r\n\r\n",
        b"GET /ping HTTP/1.1\nhost: x\n\n",
        b"GET /ping HTTP/1.1\r\nsplit: x\rother: y\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nn\x00ul: x\r\n\r\n",
        b"GET http://user@host:99999/ping HTTP/1.1\r\n\r\n",
        b"GET ../ping HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_http_is_a_400(server: Server, data: bytes) -> None:
    found = server.send(data)
    assert (found.status, found.error) == (400, "Invalid HTTP request received.")


@pytest.mark.parametrize(
    "data",
    [
        b"GET /ping HTTP/1.1\r\nlarge: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nendless: " + b"a" * 3_000_000,
        b"GET /ping HTTP/1.1\r\n" + b"".join(b"many%d: a\r\n" % number for number in range(10_000)) + b"\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_headers_have_a_limit(server: Server, data: bytes) -> None:
    found = server.send(data)
    assert (found.status, found.error) == (431, "the request's headers are larger than 65536 bytes")


@pytest.mark.parametrize("accept", [b"a/b," * 15_000, b'"a' * 30_000, b"a/b" + b';a="' * 15_000])
def test_an_accept_of_anything_is_all_right(server: Server, accept: bytes) -> None:
    found = server.send(POST + b"Accept: " + accept + b"\r\nContent-Length: 5\r\n\r\n[1.0]")
    assert found.json == {"predictions": [[2.5]]}


def test_large_headers_are_all_right(server: Server) -> None:
    found = server.send(POST + b"large: " + b"a" * 60_000 + b"\r\nContent-Length: 5\r\n\r\n[1.0]")
    assert found.json == {"predictions": [[2.5]]}


def test_a_large_body_that_is_told_of_is_refused_before_it_comes(server: Server) -> None:
    found = server.send(POST + b"Content-Length: %d\r\n\r\n" % (LIMIT + 1))
    assert found.status == 413
    assert found.error == f"the body is larger than {LIMIT} bytes, which SAGEMAKER_MAX_REQUEST_SIZE sets"
    waiting = server.send(POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % (LIMIT + 1))
    assert waiting.status == 413


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"], ids=["keep-alive", "close"])
def test_a_client_that_sends_a_large_body_all_the_same_reads_the_refusal(server: Server, more: bytes) -> None:
    found = server.invoke(b" " * 5_000_000)
    assert found.status == 413
    with contextlib.closing(server.connect()) as connection:
        body = b" " * 400_000 + b"GET /ping HTTP/1.1\r\n\r\n"
        connection.sendall(POST + more + b"Content-Length: 400000\r\n\r\n" + body)
        assert answer(connection).status == 413


def test_a_large_body_in_chunks_is_refused_as_it_comes(server: Server) -> None:
    chunk = b"%x\r\n%s\r\n" % (50_000, b" " * 50_000)
    found = server.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + 5 * chunk)
    assert found.status == 413


def test_a_body_of_the_limit_is_all_right(server: Server) -> None:
    assert server.invoke("[1.0]".ljust(LIMIT)).json == {"predictions": [[2.5]]}


def test_chunks_of_any_size_are_one_body(server: Server) -> None:
    found = server.send(
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n1;x=y\r\n.\r\n2\r\n0]\r\n0\r\nTrailer: x\r\n\r\n"
    )
    assert found.json == {"predictions": [[2.5]]}


def test_trailers_without_end_take_no_memory_and_are_given_up(server: Server) -> None:
    def resident() -> int:
        (line,) = re.findall(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
        return int(line) << 10

    before = resident()
    trailers = b"x: y\r\n" * 20_000
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n[1.0]\r\n0\r\n")
        for _ in range(200):
            connection.sendall(trailers)
        assert resident() - before < 5 * len(trailers) * 200
        assert answer(connection).status == 408


def test_a_client_that_asks_first_is_told_to_go_on(server: Server) -> None:
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"[1.0]")
        assert answer(connection).json == {"predictions": [[2.5]]}


def test_requests_in_one_packet_are_answered_in_their_order(server: Server) -> None:
    slow = b'{"instances": [0.5]}'
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(
            b"POST /v1/models/slow:predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(slow), slow)
            + POST
            + b"Content-Length: 5\r\n\r\n[1.0]"
            + b"GET /nothing HTTP/1.1\r\n\r\n"
            + b"GET /ping HTTP/1.1\r\nConnection: close\r\n\r\n"
        )
        data = ended(connection)
    statuses = [
        line for line in data.split(b"\r\n") if line.startswith(b"HTTP/") or line.endswith(b"]}HTTP/1.1 200 OK")
    ]
    assert data.count(b"HTTP/1.1 ") == 4, data
    places = [data.index(text) for text in (b'{"predictions":[0.5]}', b'{"predictions":[[2.5]]}', b"Not Found")]
    assert places == sorted(places), statuses


def test_thousands_of_requests_in_one_packet_are_all_answered_and_hold_up_nobody(server: Server) -> None:
    count = 5000
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\n\r\n" * (count - 1))
        assert server.get("/ping").status == 200
        connection.sendall(b"GET /ping HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert ended(connection).count(b"HTTP/1.1 200 OK") == count


def test_http_1_0(server: Server) -> None:
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(b"GET /ping HTTP/1.0\r\n\r\n")
        assert ended(connection).startswith(b"HTTP/1.1 200 OK")


def test_an_upgrade_that_is_offered_is_not_taken_and_the_body_is(server: Server) -> None:
    """Java's client offers HTTP/2 with its first request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(POST + offer + b"Content-Length: 5\r\n\r\n[1.0]")
        assert answer(connection).json == {"predictions": [[2.5]]}
        connection.sendall(POST + b"Content-Length: 5\r\n\r\n[3.0]")
        assert answer(connection).json == {"predictions": [[3.5]]}


def test_a_body_on_a_get_does_not_become_a_request(server: Server) -> None:
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nContent-Length: 23\r\n\r\nGET /nothing HTTP/1.1\r\n")
        assert answer(connection).status == 200
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert answer(connection).status == 200


def test_a_client_that_ends_its_side_still_gets_its_answer(server: Server) -> None:
    body = b'{"instances": [0.5]}'
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(b"POST /v1/models/slow:predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        connection.shutdown(socket.SHUT_WR)
        assert ended(connection).endswith(b'{"predictions":[0.5]}')
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\n\r\n" * 3)
        connection.shutdown(socket.SHUT_WR)
        assert ended(connection).count(b"HTTP/1.1 200 OK") == 3


def test_a_body_that_is_cut_off_is_no_request(server: Server) -> None:
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(POST + b"Content-Length: 5\r\n\r\n[1")
        connection.shutdown(socket.SHUT_WR)
        assert ended(connection) == b""
    wait_until(lambda: any(line["status"] == 499 for line in server.access_log), "it is in the access log")


def test_headers_that_do_not_come_are_given_up(server: Server) -> None:
    with contextlib.closing(server.connect()) as silent, contextlib.closing(server.connect()) as slow:
        slow.sendall(b"GET /ping HTTP/1.1\r\nslow")
        found = answer(slow)
        assert (found.status, found.error) == (408, f"the request's headers did not come within {TIMEOUT} s")
        assert ended(silent) == b""


def test_the_headers_of_a_second_request_have_a_time_too(server: Server) -> None:
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\n\r\n")
        assert answer(connection).status == 200
        connection.sendall(b"GET /pi")
        assert answer(connection).status == 408


def test_a_body_that_does_not_come_is_given_up(server: Server) -> None:
    found = server.send(POST + b"Content-Length: 50\r\n\r\n[1.0,")
    assert found.status == 408
    assert (
        found.error == f"the body did not come in within {TIMEOUT} s, which SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS sets"
    )


def test_a_model_that_takes_too_long_is_a_504(server: Server) -> None:
    found = server.ask("POST", "/v1/models/slow:predict", f'{{"instances": [{TIMEOUT + 2}.0]}}')
    assert found.status == 504
    assert found.error == f"no answer within {TIMEOUT} s, which SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS sets"


def test_many_clients_that_send_nothing_keep_no_one_out(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(contextlib.closing(server.connect()))
            connection.sendall(b"POST /invocations HTTP/1.1\r\n")
        assert server.invoke("[1.0]").status == 200


def test_a_client_that_reads_nothing_is_given_up(server: Server) -> None:
    with contextlib.closing(server.connect()) as connection:
        connection.setblocking(False)

        def is_gone() -> bool:
            try:
                connection.send(100 * b"GET /metrics HTTP/1.1\r\n\r\n")
            except BlockingIOError:
                return False
            except OSError:
                return True
            return False

        wait_until(is_gone, "the server has closed the connection")
