"""mpirun's options as values: ours, and the user's, which override ours by name.

The user's are not interpreted: what mpirun of some version knows and we do not passes as it is.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tf_toolkit import contract
from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.section import found_type

# Each takes a parameter's name and its value; Open MPI 5 has one for each of the projects that it is made of.
_PARAMETER_OPTIONS = frozenset({"mca", "gmca", "omca", "gomca", "prtemca", "pmixmca", "gpmixmca"})
# Other names of one option (mpirun(1)).
_SYNONYMS = {
    "H": "host",
    "n": "np",
    "c": "np",
    "bycore": "map-by",
    "bynode": "map-by",
    "byslot": "map-by",
    "npernode": "map-by",
    "N": "map-by",
    "bind-to-core": "bind-to",
    "bind-to-none": "bind-to",
    "bind-to-socket": "bind-to",
}
_NCCL_DEBUG = "NCCL_DEBUG"
_ENDING = frozenset({"help", "h", "version", "V"})


class Option(NamedTuple):
    """One option. Of those with one key the last counts."""

    key: tuple[str, str]
    words: tuple[str, ...]


def parameter(option: str, name: str, value: str) -> Option:
    """``-mca NAME VALUE``, or another option of this kind."""
    return Option(("parameter", name), (option, name, value))


def variable(name: str, value: str | None = None) -> Option:
    """``-x NAME=VALUE``, or ``-x NAME`` for the value that mpirun itself was given."""
    return Option(("variable", name), ("-x", name if value is None else f"{name}={value}"))


def flag(*words: str) -> Option:
    """``--flag`` and its values."""
    name = words[0].lstrip("-").partition("=")[0].replace("_", "-")
    return Option(("flag", _SYNONYMS.get(name, name)), words)


def merged(*groups: Iterable[Option]) -> tuple[Option, ...]:
    """The options of all groups, each where its key came first, as it came last."""
    last = {option.key: option for group in groups for option in group}
    return tuple(last.values())


def custom_options(value: object) -> tuple[Option, ...]:
    """The user's options, from the hyperparameter's value; None is none.

    ``--NCCL_DEBUG LEVEL`` is the variable, not one of mpirun's.

    Raises JobDescriptionError.
    """
    if value is None:
        return ()
    if not isinstance(value, str):
        raise _wrong(found_type(value))
    try:
        words = shlex.split(value)
    except ValueError as error:
        # "No closing quotation", "No escaped character".
        raise _wrong(f"{json.dumps(value)} ({str(error).lower()})") from error
    options = []
    while words:
        option, words = _first(words)
        options.append(option)
    return tuple(options)


def _first(words: Sequence[str]) -> tuple[Option, list[str]]:
    """The first option, and the words after it."""
    word = words[0]
    name, equals, value = word.lstrip("-").partition("=")
    if not word.startswith("-") or not name:
        raise _wrong(f"{word!r} where an option should begin")
    if name in _ENDING:
        raise _wrong(f"{word!r}, with which nothing would be trained")
    if name in _PARAMETER_OPTIONS and len(words) > 2:
        return parameter(word, words[1], words[2]), list(words[3:])
    if name == "x" and len(words) > 1:
        return Option(("variable", words[1].partition("=")[0]), ("-x", words[1])), list(words[2:])
    if name == _NCCL_DEBUG and (equals or len(words) > 1):
        return variable(_NCCL_DEBUG, value if equals else words[1]), list(words[1 if equals else 2 :])
    end = next((number for number, other in enumerate(words) if number and other.startswith("-")), len(words))
    if ":" in words[1:end]:
        raise _wrong("':', which begins a second program")
    return flag(*words[:end]), list(words[end:])


def _wrong(found: str) -> JobDescriptionError:
    return JobDescriptionError(
        f"{contract.HYPERPARAMETERS_FILE}: key {contract.MPI_OPTIONS!r}: found {found}, "
        "expected options of mpirun, such as '-mca btl_base_verbose 30 -x NAME=VALUE --NCCL_DEBUG WARN'"
    )
