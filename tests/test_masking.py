"""Nothing secret is printed."""

from __future__ import annotations

import pytest

from tf_toolkit.masking import MASK, looks_secret, mask_urls, masked, masked_arguments, secret_values, without


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "DB_PASSWORD",
        "api-key",
        "apiKey",
        "AWS_SECRET_ACCESS_KEY",
        "session_token",
        "privateKey",
        "creds",
        "auth",
    ],
)
def test_secret_names(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["epochs", "lr", "PATH", "author", "model_dir", "SM_HOSTS"])
def test_plain_names(name: str) -> None:
    assert not looks_secret(name)


def test_arguments() -> None:
    given = [
        "python",
        "--password",
        "hunter2",
        "--token=abc",
        "--lr",
        "1",
        "--url",
        "https://u:p@h/x",
        "--key",
        "--key",
    ]
    shown = [
        "python",
        "--password",
        MASK,
        f"--token={MASK}",
        "--lr",
        "1",
        "--url",
        f"https://{MASK}@h/x",
        "--key",
        MASK,
    ]
    assert masked_arguments(given) == shown


def test_values_inside_values() -> None:
    given = {"db": {"password": "x", "host": "h"}, "urls": ["s3://b", "http://u:p@h"], "n": 1}
    assert masked(given) == {"db": {"password": MASK, "host": "h"}, "urls": ["s3://b", f"http://{MASK}@h"], "n": 1}


def test_text_of_others() -> None:
    secrets = secret_values(
        {"password": "hunter2", "db": {"api_key": "k-123456"}, "use_key": True, "key_file": "/opt/key"}
    )
    assert secrets == {"hunter2", "k-123456"}
    assert without("bad value 'hunter2' for k-123456 at http://me:pw@h", secrets) == (
        f"bad value '{MASK}' for {MASK} at http://{MASK}@h"
    )


def test_urls() -> None:
    assert mask_urls("https://aws:tok/en@h/simple and mail me@example.org") == (
        f"https://{MASK}@h/simple and mail me@example.org"
    )
