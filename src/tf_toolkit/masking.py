"""What must not be printed: values whose names look secret, and credentials in URLs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

MASK = "******"
# The words that the SageMaker Python SDK's own drivers mask by, and a few more. A harmless `num_tokens` is masked too:
# a name masked in vain costs a look into the job's description, one printed in vain costs the secret.
_SECRET_WORDS = ("secret", "password", "passwd", "passphrase", "key", "token", "private", "creds", "credential", "auth")
_HARMLESS_WORD = "author"
# Shorter values, and these words, stand in any text by chance.
_SHORTEST_SECRET = 5
_PLAIN_WORDS = frozenset({"false", "default", "disabled", "enabled"})


def looks_secret(name: str) -> bool:
    """Whether the value of a hyperparameter or variable of this name is to be masked."""
    lower = name.lower().replace(_HARMLESS_WORD, "")
    return any(word in lower for word in _SECRET_WORDS)


def mask_urls(text: str) -> str:
    """``text`` with the user and password of every URL masked."""
    return re.sub(r"(?<=://)[^\s'\"]+(?=@)", MASK, text) if "://" in text else text


def masked(values: Mapping[str, object]) -> dict[str, object]:
    """``values`` as they may be printed, mappings inside them too."""
    return {name: MASK if looks_secret(name) else _masked_value(value) for name, value in values.items()}


def _masked_value(value: object) -> object:
    if isinstance(value, dict):
        return masked(value)
    if isinstance(value, list):
        return [_masked_value(item) for item in value]
    return mask_urls(value) if isinstance(value, str) else value


def masked_arguments(arguments: Iterable[str]) -> list[str]:
    """A command as it may be printed: the item after ``--password`` and what follows ``--password=`` are masked."""
    shown: list[str] = []
    mask_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        is_option = name.startswith("-")
        if mask_next:
            shown.append(MASK)
        elif is_option and equals and looks_secret(name):
            shown.append(f"{name}={MASK}")
        else:
            shown.append(mask_urls(argument))
        mask_next = not mask_next and is_option and not equals and looks_secret(name)
    return shown


def secret_values(*mappings: Mapping[str, object]) -> frozenset[str]:
    """The values behind secret-looking names, for :func:`without`."""
    found: set[str] = set()
    for mapping in mappings:
        for name, value in mapping.items():
            if isinstance(value, dict):
                found |= secret_values(value)
            elif looks_secret(name):
                text = str(value)
                if len(text) >= _SHORTEST_SECRET and text.lower() not in _PLAIN_WORDS and not text.startswith("/"):
                    found.add(text)
    return frozenset(found)


def without(text: str, secrets: Iterable[str]) -> str:
    """``text`` with every one of ``secrets``, and every URL's credentials, masked."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return mask_urls(text)
