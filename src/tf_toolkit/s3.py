"""The one place that makes an S3 client and reads an S3 address. boto3 is imported when it is needed, and only then."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tf_toolkit import contract
from tf_toolkit.config import JobConfig
from tf_toolkit.errors import JobDescriptionError, SourceError, ToolkitError
from tf_toolkit.masking import mask_urls

log = logging.getLogger("tf_toolkit")


class S3Address(NamedTuple):
    bucket: str
    key: str


class Listed(NamedTuple):
    """An object, as a list of them has it."""

    key: str
    # In bytes.
    size: int
    # In seconds since the epoch.
    changed: float


def parse(url: str) -> S3Address:
    """``s3://bucket/some/key`` as its parts; the key has no leading or trailing slash.

    Raises JobDescriptionError for anything else.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme.lower() != "s3" or not bucket:
        raise JobDescriptionError(f"{url!r} is not an S3 address; expected s3://bucket/key")
    return S3Address(bucket, key.strip("/"))


def client(region: str, environ: Mapping[str, str], service: str = "s3", tries: int = 5) -> Any:
    """A boto3 client of the job's region and of ``S3_ENDPOINT_URL`` where that is set.

    It gives up on a host that does not answer: five seconds to connect, a minute between bytes.
    Raises ToolkitError where boto3 is not installed, and JobDescriptionError where a setting of its is wrong.
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise ToolkitError(f"{service} needs boto3, which this image lacks: pip install 'tf-toolkit[s3]'") from error
    config = Config(connect_timeout=5, read_timeout=60, retries={"total_max_attempts": tries, "mode": "standard"})
    endpoint = environ.get("S3_ENDPOINT_URL") if service == "s3" else None
    try:
        return boto3.client(service, region_name=region or None, endpoint_url=endpoint or None, config=config)
    except (BotoCoreError, ValueError) as error:
        # A profile that is not there, an endpoint that is no URL.
        raise JobDescriptionError(
            f"{service} cannot be used: {mask_urls(str(error))}; check the AWS_* variables"
        ) from error


def listed(bucket: str, prefix: str, region: str, environ: Mapping[str, str]) -> Iterator[Listed]:
    """All objects whose key begins so, sorted by key. Going through them raises boto3's own errors."""
    pages = client(region, environ).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return (
        Listed(found["Key"], found["Size"], found["LastModified"].timestamp())
        for page in pages
        for found in page.get("Contents", ())
    )


def download(url: str, path: Path, region: str, environ: Mapping[str, str]) -> None:
    """Fetch one object into a file.

    Raises SourceError, with the address and the remedy, and OSError where the file cannot be written.
    """
    address = parse(url)
    if not address.key:
        raise SourceError(
            f"{url} names a bucket and no object in it; expected such as s3://bucket/path/sourcedir.tar.gz"
        )
    try:
        s3 = client(region, environ)
    except ToolkitError as error:
        raise SourceError(f"{url} cannot be fetched: {error}") from error
    from boto3.exceptions import Boto3Error
    from boto3.s3.transfer import TransferConfig
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        # Without threads a stop signal ends it at once.
        s3.download_file(*address, str(path), Config=TransferConfig(use_threads=False))
    except ClientError as error:
        raise SourceError(f"{url} cannot be fetched: {_explained(error.response)}") from error
    except NoCredentialsError as error:
        remedy = "give the job a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise SourceError(f"{url} cannot be fetched: no AWS credentials; {remedy}") from error
    except (BotoCoreError, Boto3Error, ValueError) as error:
        found = mask_urls(" ".join(str(error).split()))
        raise SourceError(f"{url} cannot be fetched: {found}; check the address, the network and the region") from error


def _explained(response: Mapping[str, Any]) -> str:
    """What a refusal of S3 means. It answers HEAD, which comes first, with a status only."""
    details = response.get("Error", {})
    code, message = str(details.get("Code", "")), str(details.get("Message", ""))
    if code in ("404", "NoSuchKey", "NoSuchBucket"):
        return f"there is no such bucket or object ({code}); check the address"
    if code in ("401", "403", "AccessDenied"):
        return f"access is denied ({code}); allow the job's role s3:GetObject on it, or check the address"
    return f"S3 answers {code} {message}; check the credentials and the region"


def bucket_region(config: JobConfig, environ: Mapping[str, str]) -> dict[str, str]:
    """``S3_REGION`` of the bucket in ``model_dir``, which TensorFlow's own S3 file system needs; empty when not known.

    Source: GetBucketLocation, Amazon S3 API reference; it answers nothing for the oldest region.
    """
    model_dir = config.hyperparameters.get(contract.MODEL_DIR)
    if not isinstance(model_dir, str) or not model_dir.startswith("s3://"):
        return {}
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return {}
    try:
        answer = client(config.region, environ, tries=1).get_bucket_location(Bucket=parse(model_dir).bucket)
    except (BotoCoreError, ClientError) as error:
        log.warning("the region of %s is not known, so S3_REGION is the job's: %s", model_dir, error)
        return {}
    region = answer.get("LocationConstraint")
    return {"S3_REGION": region} if region else {}
