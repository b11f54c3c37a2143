"""Stage 1, read: three JSON files and the environment become one frozen, validated JobConfig.

Formats: the developer guide, "How Amazon SageMaker Provides Training Information"
(https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html).
A missing file means its defaults; a file that is there must be right.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tf_toolkit import contract
from tf_toolkit.contract import Paths
from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.section import Section, found_type

DEFAULT_LOG_LEVEL = 20
_LOG_LEVELS = {"DEBUG": 10, "INFO": 20, "WARN": 30, "WARNING": 30, "ERROR": 40, "CRITICAL": 50, "FATAL": 50}
_JSON_DEPTH = 100


class InstanceGroup(NamedTuple):
    name: str
    instance_type: str | None
    hosts: tuple[str, ...]
    raw: Mapping[str, Any]


class JobConfig(NamedTuple):
    """The job as this host was told of it."""

    current_host: str
    hosts: tuple[str, ...]
    instance_type: str
    group_name: str
    groups: tuple[InstanceGroup, ...]
    network_interface: str
    topology: tuple[Any, ...]
    resource_config: Mapping[str, Any]
    input_data_config: Mapping[str, Any]
    # What the script gets, what the framework gets, and what neither does.
    hyperparameters: Mapping[str, Any]
    framework_parameters: Mapping[str, Any]
    reserved_parameters: Mapping[str, Any]
    entry_point: str | None
    submit_directory: str
    training_module: str | None
    log_level: int
    job_name: str | None
    region: str
    warnings: tuple[str, ...]

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(sorted(self.input_data_config))

    @property
    def group_hosts(self) -> tuple[str, ...]:
        """Hosts of this host's own instance group; none when the platform named no groups."""
        return next((group.hosts for group in self.groups if group.name == self.group_name), ())

    @property
    def distribution_groups(self) -> tuple[str, ...]:
        """Names of the instance groups that take part in distributed training."""
        named = self.framework_parameters.get(contract.DISTRIBUTION_INSTANCE_GROUPS)
        if named:
            return tuple(named)
        return (self.group_name,) if any(self.flag(name) for name in contract.DISTRIBUTION_FLAGS) else ()

    @property
    def distribution_hosts(self) -> tuple[str, ...]:
        if not self.groups:
            return self.hosts
        return tuple(host for group in self.groups if group.name in self.distribution_groups for host in group.hosts)

    @property
    def master(self) -> str:
        return (self.distribution_hosts or self.hosts)[0]

    def flag(self, name: str) -> bool:
        """A boolean framework hyperparameter, False when absent."""
        return _flag(self.framework_parameters, name)


def read_config(paths: Paths, environ: Mapping[str, str]) -> JobConfig:
    """Read the tree at ``paths``.

    Raises JobDescriptionError, which names the file, the key, what was found and what was expected.
    """
    ports = environ.get(contract.LOCAL_PORTS)
    if ports and not (ports.isascii() and ports.isdigit()):
        raise JobDescriptionError(f"{contract.LOCAL_PORTS} is {ports!r}; expected a port number, such as 20000")
    resource = Section(paths.input_config / contract.RESOURCE_CONFIG_FILE)
    channels = Section(paths.input_config / contract.INPUT_DATA_CONFIG_FILE)
    parameters = Section(paths.input_config / contract.HYPERPARAMETERS_FILE)
    for name in channels.content:
        channels.get(name, dict, None)
        if name in ("", ".", "..") or re.search(r"[/=\0]", name):
            channels.fail(name, "this name", "a channel name without '/', '=' and NUL")
    decoded = {name: decode(value) for name, value in parameters.content.items()}
    _check_representable(parameters, decoded)
    current_host, hosts = _hosts(resource)
    groups = _groups(resource, hosts)
    framework = {
        name: value
        for name, value in decoded.items()
        if name.startswith(contract.FRAMEWORK_PREFIX) and name not in contract.RESERVED
    }
    reserved = {name: value for name, value in decoded.items() if name in contract.RESERVED}
    job_name = environ.get("TRAINING_JOB_NAME")
    user = {name: value for name, value in decoded.items() if name not in framework and name not in reserved}
    user, warnings = _tuning_model_dir(user, reserved, job_name)
    # The variables win: the SDK sends the hyperparameter with every job, whether or not anybody chose it.
    log_level, log_warnings = read_log_level(
        environ.get("SM_LOG_LEVEL"), environ.get("SAGEMAKER_CONTAINER_LOG_LEVEL"), reserved.get(contract.LOG_LEVEL)
    )
    _check_distribution(parameters, framework, groups)
    module = environ.get("SAGEMAKER_TRAINING_MODULE") or None
    if module is not None and not re.fullmatch(r"[\w.]+:[\w.]+", module):
        raise JobDescriptionError(f"SAGEMAKER_TRAINING_MODULE is {module!r}; expected 'module:function'")
    reserved_text = Section(parameters.path, reserved)
    return JobConfig(
        current_host=current_host,
        hosts=hosts,
        instance_type=resource.get("current_instance_type", str, "local"),
        group_name=resource.get("current_group_name", str, "homogeneousCluster"),
        groups=groups,
        network_interface=resource.get("network_interface_name", str, "eth0"),
        topology=tuple(resource.get("topology", list, [])),
        resource_config=resource.content,
        input_data_config=channels.content,
        hyperparameters=user,
        framework_parameters=framework,
        reserved_parameters=reserved,
        entry_point=_entry_point(environ, reserved_text),
        submit_directory=environ.get("SAGEMAKER_SUBMIT_DIRECTORY")
        or reserved_text.get(contract.SUBMIT_DIRECTORY, str, "")
        or str(paths.code),
        training_module=module,
        log_level=log_level,
        job_name=job_name,
        region=reserved_text.get(contract.REGION, str, "") or region(environ),
        warnings=(*warnings, *log_warnings),
    )


def decode(value: object) -> Any:
    """A hyperparameter as it was meant: JSON in a string is decoded, any other text is itself.

    The platform sends strings only; what is not a string is kept.
    """
    if not isinstance(value, str):
        return value
    try:
        decoded = json.loads(value)
    except (ValueError, RecursionError):
        return value
    # Deeper than this, encoding it again could exhaust the stack; no honest hyperparameter is.
    return value if _deeper_than(decoded, _JSON_DEPTH) else decoded


def _deeper_than(value: object, depth: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    items = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_deeper_than(item, depth - 1) for item in items)


def _check_representable(section: Section, decoded: Mapping[str, Any]) -> None:
    """Refuse what neither an argument nor a variable can hold, before anything is started."""
    for name, value in decoded.items():
        if "=" in name:
            section.fail(name, "a name with '='", "a name that can be an environment variable; rename it")
        for text, what in ((name, "name"), *((item, "value") for item in _texts(value))):
            if "\0" in text:
                section.fail(name, f"a {what} with a NUL character", "text, which an argument can hold")
            try:
                os.fsencode(text)
            except UnicodeEncodeError:
                section.fail(name, f"a {what} that {sys.getfilesystemencoding()} cannot encode", "text that it can")


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [*value, *(text for item in value.values() for text in _texts(item))]
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else []


def _hosts(resource: Section) -> tuple[str, tuple[str, ...]]:
    if not resource.content:
        name = os.uname().nodename
        return name, (name,)
    current = resource.get("current_host", str, None)
    if not current:
        resource.fail("current_host", "nothing", "this host's name, a string")
    hosts = resource.strings("hosts")
    if current not in hosts:
        resource.fail("hosts", f"a list without the current host {current!r}", "a list of all hosts of the job")
    if len(set(hosts)) < len(hosts):
        resource.fail("hosts", "a name twice", "each host once")
    return current, hosts


def _groups(resource: Section, hosts: tuple[str, ...]) -> tuple[InstanceGroup, ...]:
    groups = []
    for number, raw in enumerate(resource.get("instance_groups", list, [])):
        if not isinstance(raw, dict):
            resource.fail("instance_groups", f"a list with {found_type(raw)} in it", "a list of objects")
        section = Section(Path(f"{resource.path}: instance_groups[{number}]"), raw)
        name = section.get("instance_group_name", str, None)
        if name is None:
            section.fail("instance_group_name", "nothing", "a string")
        for host in section.strings("hosts"):
            if host not in hosts:
                section.fail("hosts", repr(host), f"hosts of the job, {list(hosts)}")
        groups.append(InstanceGroup(name, section.get("instance_type", str, None), section.strings("hosts"), raw))
    return tuple(groups)


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if value is None or (isinstance(value, (bool, int)) and value in (0, 1)):
        return bool(value)
    raise JobDescriptionError(
        f"{contract.HYPERPARAMETERS_FILE}: key {name!r}: found {found_type(value)}, expected true or false"
    )


def _check_distribution(section: Section, framework: Mapping[str, Any], groups: tuple[InstanceGroup, ...]) -> None:
    for name in (*contract.DISTRIBUTION_FLAGS, contract.MKL_ENABLED):
        _flag(framework, name)
    if framework.get(contract.DISTRIBUTION_INSTANCE_GROUPS) is None:
        return
    known = {group.name for group in groups}
    for name in Section(section.path, framework).strings(contract.DISTRIBUTION_INSTANCE_GROUPS):
        if groups and name not in known:
            section.fail(contract.DISTRIBUTION_INSTANCE_GROUPS, repr(name), f"one of the job's groups, {sorted(known)}")


def _tuning_model_dir(
    user: dict[str, Any], reserved: Mapping[str, Any], job_name: str | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The jobs of a tuning job share one model_dir, so each one's name is appended to it.

    Source: the TensorFlow training toolkit's rule for jobs that carry ``_tuning_objective_metric``.
    """
    model_dir = user.get(contract.MODEL_DIR)
    if contract.TUNING_OBJECTIVE_METRIC not in reserved or not isinstance(model_dir, str):
        return user, ()
    if model_dir.startswith(contract.BASE_DIR):
        return user, ()
    if not job_name:
        return user, ("a tuning job without TRAINING_JOB_NAME: its jobs share one model_dir",)
    return {**user, contract.MODEL_DIR: f"{model_dir.rstrip('/')}/{job_name}/model"}, ()


def region(environ: Mapping[str, str]) -> str:
    """The AWS region that the environment names; empty where it names none."""
    names = ("AWS_REGION", "SAGEMAKER_REGION", "AWS_DEFAULT_REGION")
    return next((environ[name] for name in names if environ.get(name)), "")


def read_log_level(*sources: object) -> tuple[int, tuple[str, ...]]:
    """The level that the first source given names, and what is to be said about it."""
    found = next((source for source in sources if source not in (None, "")), DEFAULT_LOG_LEVEL)
    text = str(found).strip().upper()
    if text in _LOG_LEVELS:
        return _LOG_LEVELS[text], ()
    if text.isascii() and text.isdigit() and len(text) < 5:
        return int(text), ()
    return DEFAULT_LOG_LEVEL, (
        f"log level {found!r} is neither a number nor one of {', '.join(_LOG_LEVELS)}; using INFO",
    )


def _entry_point(environ: Mapping[str, str], reserved: Section) -> str | None:
    """The entry point's name, checked so that it can neither leave the code directory nor be read as an option."""
    name = environ.get("SAGEMAKER_PROGRAM") or reserved.get(contract.PROGRAM, str, None)
    if name is None:
        return None
    segments = name.split("/")
    if not re.fullmatch(contract.PROGRAM_PATTERN, name) or any(segment in ("", ".", "..") for segment in segments):
        where = (
            "SAGEMAKER_PROGRAM" if environ.get("SAGEMAKER_PROGRAM") else f"{reserved.path}: key {contract.PROGRAM!r}"
        )
        raise JobDescriptionError(
            f"{where}: found {name!r}, expected a path inside the code directory, such as 'train.py' or 'a/train.py': "
            "letters, digits and . _ + - / only, no '-' at the start, no empty, '.' or '..' part"
        )
    return name
