"""The package index of an AWS CodeArtifact repository, named by CA_REPOSITORY_ARN.

The address carries a token. It goes to the installer in its environment and nowhere else: never on a command line,
which every user of the machine can read, nor to a log, a file or a failure text.
API: https://docs.aws.amazon.com/codeartifact/latest/APIReference/API_GetAuthorizationToken.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from tf_toolkit import s3
from tf_toolkit.errors import InstallRequirementsError, JobDescriptionError

VARIABLE = "CA_REPOSITORY_ARN"
# 0.5, 1, 2 and 4 s apart, and a little more, lest all hosts of a job come back at the same moment.
_TRIES = 5
_WAIT_MILLISECONDS = 250
_JITTER_MILLISECONDS = 500
_THROTTLES = frozenset(
    {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown"}
)


class Index(NamedTuple):
    """Where packages are, and what of the address must not be printed."""

    url: str
    secrets: frozenset[str]


class _Repository(NamedTuple):
    region: str
    account: str
    domain: str
    name: str


def index(variables: Mapping[str, str]) -> Index | None:
    """The index that ``CA_REPOSITORY_ARN`` names, with a fresh token; None where it is not set.

    Raises JobDescriptionError for something other than a repository's ARN, InstallRequirementsError when the service
    refuses or cannot be reached, and ToolkitError where boto3 is not installed.
    """
    arn = variables.get(VARIABLE)
    if not arn:
        return None
    repository = _parse(arn)
    client = s3.client(repository.region, variables, service="codeartifact", tries=1)
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        owner = {"domain": repository.domain, "domainOwner": repository.account}
        token = _patiently(client.get_authorization_token, **owner)["authorizationToken"]
        endpoint = _patiently(client.get_repository_endpoint, **owner, repository=repository.name, format="pypi")
    except (BotoCoreError, ClientError) as error:
        raise InstallRequirementsError(f"CodeArtifact, {VARIABLE}={arn}: {error}") from error
    from urllib.parse import quote, urlsplit

    quoted = quote(token, safe="")
    parts = urlsplit(endpoint["repositoryEndpoint"])
    url = f"{parts.scheme}://aws:{quoted}@{parts.netloc}{parts.path.rstrip('/')}/simple/"
    return Index(url, frozenset({token, quoted}))


def _parse(arn: str) -> _Repository:
    found = re.fullmatch(r"arn:[^:]+:codeartifact:([^:]+):(\d+):repository/([^/:]+)/([^/:]+)", arn)
    if found is None:
        raise JobDescriptionError(
            f"{VARIABLE} is {arn!r}; expected "
            "arn:<partition>:codeartifact:<region>:<account>:repository/<domain>/<repository>"
        )
    return _Repository(*found.groups())


def _patiently(call: Any, **arguments: str) -> dict[str, Any]:
    """One call of the API, tried again while the service is busy or away."""
    from retrying import Retrying

    patience = Retrying(
        stop_max_attempt_number=_TRIES,
        wait_exponential_multiplier=_WAIT_MILLISECONDS,
        wait_jitter_max=_JITTER_MILLISECONDS,
        retry_on_exception=_is_passing,
    )
    answer: dict[str, Any] = patience.call(call, **arguments)
    return answer


def _is_passing(error: BaseException) -> bool:
    from botocore.exceptions import ClientError, HTTPClientError

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return error.response.get("Error", {}).get("Code") in _THROTTLES or status >= 500
    return isinstance(error, HTTPClientError)
