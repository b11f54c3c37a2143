"""Objects of S3, for inputs and outputs: they are listed, looked at and uploaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

from tf_toolkit import s3
from tf_toolkit.config import region
from tf_toolkit.errors import SourceError
from tf_toolkit.masking import mask_urls


def is_address(text: str) -> bool:
    return text.lower().startswith("s3://")


def prefix(url: str) -> str:
    """What keys begin with; unlike a key's, its slash at the end says something."""
    key = s3.parse(url).key
    return f"{key}/" if key and url.endswith("/") else key


def listed(url: str, environ: Mapping[str, str]) -> Iterator[s3.Listed]:
    """All objects whose key begins as the address says, sorted by key. Raises SourceError, and JobDescriptionError."""
    found = s3.listed(s3.parse(url).bucket, prefix(url), region(environ), environ)
    with _asked(url, "listed", "s3:ListBucket"):
        yield from found


def metadata(url: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What was said of an object when it was uploaded. Raises SourceError."""
    bucket, key = s3.parse(url)
    with _asked(url, "looked at", "s3:GetObject"):
        answer = s3.client(region(environ), environ).head_object(Bucket=bucket, Key=key)
        return dict(answer["Metadata"])


def upload(file: IO[bytes], url: str, said: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """Have the object be what the file holds, all of it at once. Raises SourceError."""
    client = s3.client(region(environ), environ)
    from boto3.s3.transfer import TransferConfig

    bucket, key = s3.parse(url)
    with _asked(url, "written", "s3:PutObject"):
        # Without threads a stop signal ends it at once.
        config = TransferConfig(use_threads=False)
        client.upload_fileobj(file, bucket, key, ExtraArgs={"Metadata": dict(said)}, Config=config)


@contextlib.contextmanager
def _asked(url: str, what: str, permission: str) -> Iterator[None]:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        details: Any = error.response.get("Error", {})
        raise SourceError(
            f"{url} cannot be {what}: S3 answers {details.get('Code', '')} {details.get('Message', '')}; check the "
            f"address, and that {permission} is allowed"
        ) from error
    except (BotoCoreError, Boto3Error, ValueError) as error:
        found = mask_urls(" ".join(str(error).split()))
        raise SourceError(
            f"{url} cannot be {what}: {found}; check the address, the credentials and the region"
        ) from error
