"""/docs: one page that needs nothing but this server, and goes by its description."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_process import Answer, Server, serving

# Names of OpenAPI that a page could use, and that are not those of an answer too: https://spec.openapis.org/oas/v3.1.1.html
NAMES = {
    *(
        "openapi",
        "info",
        "title",
        "version",
        "servers",
        "paths",
        "components",
        "tags",
        "name",
        "description",
        "summary",
    ),
    *("operationId", "parameters", "requestBody", "responses", "content", "schema", "example", "examples", "value"),
    *("externalValue", "required", "in", "links", "callbacks", "security"),
}


class Page(html.parser.HTMLParser):
    """What of a page matters here."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def server(saved_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("server") / "ml"
    with serving(root, {"half_plus_two": saved_models / "half_plus_two"}) as started:
        yield started


@pytest.fixture(scope="module")
def page(server: Server) -> Answer:
    for port in (server.port, server.rest_port):
        found = server.ask("GET", "/docs", port=port)
        assert (found.status, found.headers["content-type"]) == (200, "text/html; charset=utf-8")
    return found


def test_nothing_but_its_own_code_runs(page: Answer) -> None:
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert page.headers["x-content-type-options"] == "nosniff"
    for kind in ("script", "style"):
        (inline,) = re.findall(rf"<{kind}>(.*?)</{kind}>".encode(), page.body, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline).digest()).decode()
        assert policy.pop(f"{kind}-src") == f"'sha256-{digest}'"
    assert policy == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_it_loads_nothing(page: Answer) -> None:
    tags = Page(page.body.decode()).tags
    targets = {value for _, attributes in tags for name, value in attributes.items() if name in ("src", "href")}
    assert targets == {"data:,", "openapi.json"}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on") or name == "style"]
    assert b"innerHTML" not in page.body
    assert not re.search(rb"https?://", page.body)


def test_every_name_that_it_uses_is_described(server: Server, page: Answer) -> None:
    description = server.get("/openapi.json").json
    names: set[str] = set()
    json.loads(json.dumps(description), object_hook=names.update)
    used = set(re.findall(r"\.(\w+)", page.body.decode())) & NAMES
    assert {"info", "tags", "paths", "parameters", "requestBody", "responses", "content", "externalValue"} <= used
    assert used <= names


def test_every_element_that_it_looks_for_is_there(page: Answer) -> None:
    text = page.body.decode()
    ids = {attributes["id"] for _, attributes in Page(text).tags if "id" in attributes}
    # Made by the page itself.
    ids |= {"content-type", "accept"}
    assert set(re.findall(r'find\("([^"]+)"\)', text)) <= ids
