"""X-Amzn-SageMaker-Custom-Attributes: which model, which version of it, and which method a request is for.

The header is a list such as ``tfs-model-name=half_plus_three,tfs-model-version=124,tfs-method=regress``. Other keys are
the handler's, which gets the header as it came.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from tf_toolkit.serving.errors import invalid

# As requests have it.
HEADER = b"x-amzn-sagemaker-custom-attributes"

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
# The digits of 64 bits.
_VERSION = re.compile(r"[0-9]{1,19}")
_METHOD = re.compile("predict|classify|regress")
_PATTERNS = {"tfs-model-name": MODEL_NAME, "tfs-model-version": _VERSION, "tfs-method": _METHOD}


class CustomAttributes(NamedTuple):
    """What the header asks for; None for what it leaves open."""

    model_name: str | None = None
    model_version: str | None = None
    method: str | None = None

    @property
    def version(self) -> int | None:
        """The version as a number."""
        return None if self.model_version is None else int(self.model_version)


_NOTHING = CustomAttributes()


# Clients send the same with every request.
@lru_cache(maxsize=100)
def parse(header: str | None) -> CustomAttributes:
    """The header, or its absence. Of a key that stands there twice, the last one counts.

    Raises RequestError for a value that can be no name, version or method.
    """
    if not header:
        return _NOTHING
    found: dict[str, str] = {}
    for pair in header.split(","):
        key, equals, value = (part.strip(" \t") for part in pair.partition("="))
        pattern = _PATTERNS.get(key)
        if pattern is None or not equals:
            continue
        if not pattern.fullmatch(value):
            raise invalid(f"invalid {key}")
        found[key] = value
    return CustomAttributes(found.get("tfs-model-name"), found.get("tfs-model-version"), found.get("tfs-method"))
