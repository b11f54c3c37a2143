"""What output_handler gets: the model's answer, as `requests` has it, of whose Response users know the names."""

from __future__ import annotations

import http
import json
from collections.abc import Mapping
from typing import Any


class Headers(dict[str, str]):
    """Upper and lower case are one."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__({name.lower(): value for name, value in headers.items()})

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name.lower() if isinstance(name, str) else name)

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


class ModelAnswer:
    """An answer of TensorFlow Serving's REST API; see requests.Response."""

    encoding = "utf-8"

    def __init__(self, url: str, status_code: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.url = url
        self.status_code = status_code
        self.content = content
        self.headers = Headers(headers)

    def __repr__(self) -> str:
        return f"<Response [{self.status_code}]>"

    def __bool__(self) -> bool:
        return self.ok

    @property
    def ok(self) -> bool:
        return self.status_code < 400

    @property
    def reason(self) -> str:
        return http.HTTPStatus(self.status_code).phrase

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self, **options: Any) -> Any:
        """Raises ValueError where it is none."""
        return json.loads(self.content, **options)

    def raise_for_status(self) -> None:
        """Raises OSError, which requests.HTTPError is too."""
        if not self.ok:
            raise OSError(f"{self.status_code} {self.reason} for url: {self.url}: {self.text}")
