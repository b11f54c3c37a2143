"""What an installer is to us, and the settings that are the same for all.

Settings are pip's (https://pip.pypa.io/en/stable/topics/configuration/): variables ``PIP_*``, and ``SAGEMAKER_PIP_*``
for each of those that is not set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tf_toolkit.errors import InstallRequirementsError
from tf_toolkit.masking import mask_urls
from tf_toolkit.requirements.codeartifact import Index
from tf_toolkit.requirements.failure import Rule

# Beside requirements.txt: its *.whl files are found besides those of the index, and alone with PIP_NO_INDEX=1.
WHEELS = "wheels"
_PIP_PREFIX = "PIP_"
_PLATFORM_PREFIX = "SAGEMAKER_PIP_"


class Tool(NamedTuple):
    """An installer, ready to be started with a subcommand."""

    argv: tuple[str, ...]
    # For the subcommand "install".
    options: tuple[str, ...]
    # It carries the settings, and of those the secret ones nothing else does.
    env: Mapping[str, str]
    # Where it looks for packages, as a message names it.
    source: str
    # How to read its errors, the most telling first.
    rules: tuple[Rule, ...]
    # The subcommand that tells whether what is installed goes together, if installing does not tell.
    check: tuple[str, ...] = ()
    # Of its output, the requirement of which it says that there is none, without saying why; None if there is none.
    unexplained: Callable[[str], str | None] = lambda output: None


def common(directory: Path, variables: Mapping[str, str], index: Index | None) -> dict[str, str]:
    """The environment of any installer, in pip's words."""
    env = dict(variables)
    for name, value in variables.items():
        if name.startswith(_PLATFORM_PREFIX):
            env.setdefault(_PIP_PREFIX + name[len(_PLATFORM_PREFIX) :], value)
    # The code directory is on it for the script. An installer would take its modules for Python's own, and a
    # *.egg-info in it for an installed package.
    others = [path for path in env.pop("PYTHONPATH", "").split(":") if path and Path(path) != directory]
    if others:
        env["PYTHONPATH"] = ":".join(others)
    if index is not None:
        # Instead of the index, as the platform has it, not besides.
        env["PIP_INDEX_URL"] = index.url
    wheels = directory / WHEELS
    if any(wheels.glob("*.whl")):
        # The variable hides what a configuration file says. As an address, for blanks separate the items of the list.
        links = env.get("PIP_FIND_LINKS") or configured(env).get("PIP_FIND_LINKS", "")
        env["PIP_FIND_LINKS"] = f"{links} {wheels.as_uri()}".strip()
    env.setdefault("PIP_ROOT_USER_ACTION", "ignore")
    if _is_externally_managed():
        # Debian keeps installers from its own Python for the machine's sake. An image's Python is there for the job.
        env.setdefault("PIP_BREAK_SYSTEM_PACKAGES", "1")
    return env


def configured(env: Mapping[str, str]) -> dict[str, str]:
    """The settings in pip's configuration files, as the variables that say the same."""
    if env.get("PIP_CONFIG_FILE") == os.devnull:
        return {}
    import configparser

    home = env.get("HOME", "")
    files = (
        "/etc/xdg/pip/pip.conf",
        "/etc/pip.conf",
        f"{home}/.pip/pip.conf",
        f"{env.get('XDG_CONFIG_HOME') or home + '/.config'}/pip/pip.conf",
        f"{sys.prefix}/pip.conf",
        env.get("PIP_CONFIG_FILE", ""),
    )
    parser = configparser.RawConfigParser()
    try:
        parser.read(filter(None, files), encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise InstallRequirementsError(f"pip's configuration cannot be read: {' '.join(str(error).split())}") from error
    return {
        _PIP_PREFIX + key.upper().replace("-", "_"): value
        for section in ("global", "install")
        if parser.has_section(section)
        for key, value in parser.items(section)
    }


def source(env: Mapping[str, str], index: str | None) -> str:
    """Where an installer looks for packages: in ``index``, or PyPI's, unless it is kept from any."""
    if is_true(env.get("PIP_NO_INDEX", "")):
        return f"the folder of wheels ({mask_urls(env.get('PIP_FIND_LINKS') or 'none is named in PIP_FIND_LINKS')})"
    return f"the index ({mask_urls(index or 'https://pypi.org/simple')})"


def is_true(text: str) -> bool:
    """As pip reads a switch."""
    return text.strip().lower() in ("1", "y", "yes", "t", "true", "on")


def _is_externally_managed() -> bool:
    """https://packaging.python.org/en/latest/specifications/externally-managed-environments/"""
    import sysconfig

    return sys.prefix == sys.base_prefix and Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()
