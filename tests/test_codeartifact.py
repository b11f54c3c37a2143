"""A private index of AWS CodeArtifact: a local service answers its two calls, and an index wants its token."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from conftest import AWS_ENVIRON
from packages import Index, Python, wheel, write_package

ARN = "arn:aws:codeartifact:eu-west-3:123456789012:repository/team/models"
TOKEN = "eyJ2ZXIiOjEs+/=%SECRET"
NEEDED = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six", "retrying")


class Service:
    """The two calls of https://docs.aws.amazon.com/codeartifact/latest/APIReference/ that are made."""

    def __init__(self, index: Index) -> None:
        # (status, error) to answer before the right answers.
        self.refusals: list[tuple[int, str]] = []
        self.asked: list[tuple[str, str, dict[str, list[str]], str]] = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                url = urlsplit(self.path)
                signed = self.headers.get("Authorization", "")
                service.asked.append((self.command, url.path, parse_qs(url.query), signed))
                status, error = service.refusals.pop(0) if service.refusals else (200, "")
                answer: dict[str, object] = {"message": "no"}
                if status == 200 and url.path == "/v1/authorization-token":
                    answer = {"authorizationToken": TOKEN, "expiration": 4e9}
                elif status == 200:
                    answer = {"repositoryEndpoint": f"{index.address}/pypi/models/"}
                body = json.dumps(answer).encode()
                self.send_response(status)
                if error:
                    self.send_header("x-amzn-ErrorType", error)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    served = Index(tmp_path / "index", f"aws:{TOKEN}")
    wheel(served.folder, "private", "1.0")
    yield served
    served.close()


@pytest.fixture
def service(index: Index) -> Iterator[Service]:
    served = Service(index)
    yield served
    served.close()


@pytest.fixture
def make_python(tmp_path: Path, index: Index, service: Service) -> Callable[[str], Python]:
    def make(tool: str) -> Python:
        python = Python(tmp_path / tool, tool, index, NEEDED)
        python.environ |= {**AWS_ENVIRON, "AWS_ENDPOINT_URL_CODEARTIFACT": service.url, "CA_REPOSITORY_ARN": ARN}
        # The repository takes their place.
        python.environ |= {"PIP_INDEX_URL": "http://nowhere.invalid", "UV_DEFAULT_INDEX": "http://nowhere.invalid"}
        return python

    return make


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_a_package_of_a_repository(
    make_python: Callable[[str], Python], index: Index, service: Service, tool: str
) -> None:
    python = make_python(tool)
    service.refusals = [(429, "ThrottlingException")]
    python.requirements("private")
    outcome = python.install()
    assert outcome.error == "", outcome.message
    assert "installed: private 1.0\n" in outcome.log
    assert any(path.startswith("/pypi/models/simple/private") for path in index.asked)
    owner = {"domain": ["team"], "domain-owner": ["123456789012"]}
    assert [asked[:3] for asked in service.asked] == [
        ("POST", "/v1/authorization-token", owner),
        ("POST", "/v1/authorization-token", owner),
        ("GET", "/v1/repository/endpoint", {**owner, "repository": ["models"], "format": ["pypi"]}),
    ]
    assert all("/eu-west-3/codeartifact/" in signed for *_, signed in service.asked), "the region is the repository's"
    # What is said, to whom, and what remains.
    assert any("pip" in line for line in index.command_lines)
    texts = [outcome.log, *index.command_lines, *(path.read_text(errors="replace") for path in files(python))]
    for secret in (TOKEN, quote(TOKEN, safe="")):
        assert not any(secret in text for text in texts)


def files(python: Python) -> Iterator[Path]:
    for folder in (python.code, python.root / "home", python.packages):
        yield from (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 1_000_000)


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_a_failure_does_not_tell_the_token(make_python: Callable[[str], Python], index: Index, tool: str) -> None:
    python = make_python(tool)
    python.requirements("private", "lost==2")
    outcome = python.install()
    assert outcome.error == "InstallRequirementsError"
    where = f"the index ({index.address.replace('://', '://******@')}/pypi/models/simple"
    assert outcome.message.startswith(f'requirements.txt line 2 ("lost==2"): {where}'), outcome.message
    for secret in (TOKEN, quote(TOKEN, safe="")):
        assert secret not in outcome.message + outcome.details + outcome.log


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_a_build_that_tells_its_environment(make_python: Callable[[str], Python], tool: str) -> None:
    """Builds inherit the installer's environment, for they may install in turn."""
    python = make_python(tool)
    part = "os.environ['PIP_INDEX_URL'].partition('aws:')[2].partition('@')[0]"
    write_package(python.code / "mylib", "mylib", f"import os\nraise RuntimeError('found ' + {part})\n")
    python.requirements("./mylib")
    outcome = python.install()
    assert outcome.message == 'requirements.txt line 1 ("./mylib"): its build failed: RuntimeError: found ******'
    assert quote(TOKEN, safe="") not in outcome.details


@pytest.mark.parametrize(
    "arn",
    ["models", "arn:aws:s3:::bucket", ARN.replace("repository/", "package/"), ARN + "/more", ARN.replace("team/", "")],
)
def test_something_other_than_a_repository(make_python: Callable[[str], Python], service: Service, arn: str) -> None:
    python = make_python("uv")
    python.requirements("private")
    outcome = python.install(CA_REPOSITORY_ARN=arn)
    assert outcome.error == "JobDescriptionError"
    assert outcome.message.startswith(f"CA_REPOSITORY_ARN is {arn!r}; expected arn:<partition>:codeartifact:<region>:")
    assert not service.asked


def test_a_service_that_refuses(make_python: Callable[[str], Python], service: Service) -> None:
    python = make_python("uv")
    service.refusals = [(403, "AccessDeniedException")]
    python.requirements("private")
    outcome = python.install()
    assert outcome.error == "InstallRequirementsError"
    assert outcome.message.startswith(
        f"CodeArtifact, CA_REPOSITORY_ARN={ARN}: An error occurred (AccessDeniedException)"
    )
    assert len(service.asked) == 1, "asking again would not help"


def test_a_service_that_stays_busy(make_python: Callable[[str], Python], service: Service) -> None:
    python = make_python("uv")
    service.refusals = [(429, "ThrottlingException")] * 3 + [(503, "InternalServerException")] * 9
    python.requirements("private")
    outcome = python.install()
    assert outcome.error == "InstallRequirementsError"
    assert f"CA_REPOSITORY_ARN={ARN}" in outcome.message
    assert len(service.asked) == 5


def test_without_credentials(make_python: Callable[[str], Python], service: Service) -> None:
    python = make_python("uv")
    del python.environ["AWS_ACCESS_KEY_ID"], python.environ["AWS_SECRET_ACCESS_KEY"]
    python.requirements("private")
    outcome = python.install()
    assert outcome.error == "InstallRequirementsError"
    assert outcome.message == f"CodeArtifact, CA_REPOSITORY_ARN={ARN}: Unable to locate credentials"
    assert not service.asked


def test_without_boto3(tmp_path: Path, index: Index) -> None:
    python = Python(tmp_path / "bare", "uv", index)
    python.requirements("private")
    outcome = python.install(CA_REPOSITORY_ARN=ARN)
    assert outcome.error == "ToolkitError"
    assert "pip install 'tf-toolkit[s3]'" in outcome.message
