"""Stage 3, install: requirements.txt and the user's own package, into the running environment.

uv does it where it is on PATH, else pip. It runs in the code directory, so ``./mylib``, ``-e .`` and ``-r more.txt``
mean what they say there. What the image promises is protected (protected.py), unless TF_TOOLKIT_REQUIREMENTS says
otherwise: ``protect``, the default; ``replace``, which lets a requirement replace it; ``skip``, which installs nothing.

A folder ``wheels`` beside requirements.txt with ``*.whl`` files in it is searched besides the index, as if it stood in
PIP_FIND_LINKS; with PIP_NO_INDEX=1 nothing else is, so that an install needs no network.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from tf_toolkit import contract
from tf_toolkit.errors import JobDescriptionError

log = logging.getLogger("tf_toolkit")

REQUIREMENTS_FILE = "requirements.txt"
_PROTECT, _REPLACE, _SKIP = "protect", "replace", "skip"


def install(directory: Path, package: bool, quiet: bool, variables: Mapping[str, str], stop_grace: float) -> None:
    """Install ``directory/requirements.txt`` if it is there, and the package in ``directory`` if ``package``.

    The installer says little if ``quiet``. ``variables`` is the whole environment of what is started.

    Raises InstallRequirementsError, or InstallModuleError where there is a package, JobDescriptionError for a wrong
    setting, and Stopped.
    """
    mode = variables.get(contract.REQUIREMENTS) or _PROTECT
    if mode not in (_PROTECT, _REPLACE, _SKIP):
        raise JobDescriptionError(f"{contract.REQUIREMENTS} is {mode!r}; expected {_PROTECT}, {_REPLACE} or {_SKIP}")
    directory = directory.absolute()
    if not package and not os.path.lexists(directory / REQUIREMENTS_FILE):
        return
    if mode == _SKIP:
        log.info("%s is %s: nothing of %s is installed", contract.REQUIREMENTS, _SKIP, directory)
        return
    # Only a job that installs something pays for it.
    from tf_toolkit.requirements import installation

    installation.install(directory, package, mode == _PROTECT, quiet, variables, stop_grace)
