"""Stage 2, describe: JobConfig and Hardware become SM_* variables and script arguments. Pure: nothing is read or set.

Formats: https://github.com/aws/sagemaker-training-toolkit/blob/master/ENVIRONMENT_VARIABLES.md
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tf_toolkit import contract
from tf_toolkit.config import JobConfig
from tf_toolkit.contract import Paths
from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.hardware import Hardware
from tf_toolkit.process import Command, ProcessSpec


class Environment(NamedTuple):
    """What every process of the job is given."""

    variables: Mapping[str, str]
    arguments: tuple[str, ...]
    hardware: Hardware


class _Facts(NamedTuple):
    config: JobConfig
    hardware: Hardware
    paths: Paths
    environ: Mapping[str, str]
    arguments: tuple[str, ...]


# Name and source of every variable that every job has; all are encoded by encode(). SM_CHANNEL_<NAME>, SM_HP_<NAME> and
# the names of command_variables() come besides.
TABLE: tuple[tuple[str, Callable[[_Facts], Any]], ...] = (
    ("SM_HOSTS", lambda job: job.config.hosts),
    ("SM_CURRENT_HOST", lambda job: job.config.current_host),
    ("SM_NETWORK_INTERFACE_NAME", lambda job: job.config.network_interface),
    ("SM_CURRENT_INSTANCE_TYPE", lambda job: job.config.instance_type),
    ("SM_CURRENT_INSTANCE_GROUP", lambda job: job.config.group_name),
    ("SM_CURRENT_INSTANCE_GROUP_HOSTS", lambda job: job.config.group_hosts),
    ("SM_INSTANCE_GROUPS", lambda job: [group.name for group in job.config.groups]),
    ("SM_INSTANCE_GROUPS_DICT", lambda job: {group.name: group.raw for group in job.config.groups}),
    ("SM_DISTRIBUTION_INSTANCE_GROUPS", lambda job: job.config.distribution_groups),
    ("SM_IS_HETERO", lambda job: len(job.config.groups) > 1),
    ("SM_RESOURCE_CONFIG", lambda job: job.config.resource_config),
    ("SM_INPUT_DATA_CONFIG", lambda job: job.config.input_data_config),
    ("SM_CHANNELS", lambda job: job.config.channels),
    ("SM_HPS", lambda job: job.config.hyperparameters),
    ("SM_FRAMEWORK_PARAMS", lambda job: job.config.framework_parameters),
    ("SM_FRAMEWORK_MODULE", lambda job: job.config.training_module),
    ("SM_USER_ARGS", lambda job: job.arguments),
    ("SM_USER_ENTRY_POINT", lambda job: job.config.entry_point),
    ("SM_MODULE_NAME", lambda job: _module_name(job.config.entry_point)),
    ("SM_MODULE_DIR", lambda job: job.config.submit_directory),
    ("SM_LOG_LEVEL", lambda job: job.config.log_level),
    ("SM_INPUT_DIR", lambda job: str(job.paths.input)),
    ("SM_INPUT_CONFIG_DIR", lambda job: str(job.paths.input_config)),
    ("SM_INPUT_DATA_DIR", lambda job: str(job.paths.input_data)),
    ("SM_MODEL_DIR", lambda job: str(job.paths.model)),
    ("SM_OUTPUT_DIR", lambda job: str(job.paths.output)),
    ("SM_OUTPUT_DATA_DIR", lambda job: str(job.paths.output_data)),
    ("SM_OUTPUT_INTERMEDIATE_DIR", lambda job: str(job.paths.intermediate)),
    ("SM_OUTPUT_FAILURE", lambda job: str(job.paths.failure)),
    ("SM_NUM_CPUS", lambda job: job.hardware.cpus),
    ("SM_NUM_GPUS", lambda job: job.hardware.gpus),
    ("SM_NUM_NEURONS", lambda job: job.hardware.neurons),
    ("SM_MASTER_ADDR", lambda job: job.config.master),
    ("SM_MASTER_PORT", lambda job: contract.MASTER_PORT),
    ("SM_HOST_COUNT", lambda job: len(job.config.hosts)),
    ("SM_CURRENT_HOST_RANK", lambda job: job.config.hosts.index(job.config.current_host)),
    ("SM_TRAINING_ENV", lambda job: _training_env(job)),
    # Names of the older toolkits, which scripts still read.
    ("CURRENT_HOST", lambda job: job.config.current_host),
    ("SAGEMAKER_JOB_NAME", lambda job: job.config.reserved_parameters.get(contract.JOB_NAME)),
    ("SAGEMAKER_REGION", lambda job: job.config.region),
)

# What the TensorFlow toolkit sets unless the user did.
DEFAULTS = {
    # The code may be the user's own directory, mounted, where a container's root would leave files of its own.
    "PYTHONDONTWRITEBYTECODE": "1",
    # A user sees what is printed when it is printed, also where the image forgot this.
    "PYTHONUNBUFFERED": "1",
    "TF_CPP_MIN_LOG_LEVEL": "1",
    "S3_USE_HTTPS": "1",
}


def build_environment(
    config: JobConfig, hardware: Hardware, paths: Paths, environ: Mapping[str, str], arguments: Sequence[str] = ()
) -> Environment:
    """The variables (``environ`` and ours), and the script's arguments: the hyperparameters, then ``arguments``."""
    arguments = (*script_arguments(config.hyperparameters), *arguments)
    facts = _Facts(config, hardware, paths, environ, arguments)
    variables = {**DEFAULTS, **environ}
    if config.region:
        variables.setdefault("S3_REGION", config.region)
    variables |= {f"SM_HP_{name.upper()}": encode(value) for name, value in config.hyperparameters.items()}
    variables |= {f"SM_CHANNEL_{name.upper()}": str(paths.input_data / name) for name in config.channels}
    variables |= {name: encode(source(facts)) for name, source in TABLE}
    if config.topology:
        variables["SM_TOPOLOGY"] = encode(config.topology)
    return Environment(variables, arguments, hardware)


def command_variables(command: Command, variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that depend on where the user's code came to lie.

    PYTHONPATH is that directory and what was there before: the launcher's own library directories would break every
    other Python that a script starts.
    """
    python_path = [command.directory, *filter(None, [variables.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(python_path),
        "SM_SOURCE_DIR": command.directory,
        "SM_ENTRY_SCRIPT": command.entry_point or "",
        "SM_USER_ENTRY_POINT": command.entry_point or "",
        "SM_MODULE_NAME": _module_name(command.entry_point),
    }


def encode(value: object) -> str:
    """A variable's text: None is empty, text is itself, anything else is compact JSON with sorted keys."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def script_arguments(hyperparameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Hyperparameters as a command line, sorted by name: ``-x`` for one letter, ``--name`` for more, then the value.

    None is empty, booleans are ``True`` and ``False``, a mapping is ``a=1,b=2``, a list is what Python prints.
    """
    arguments: list[str] = []
    for name, value in sorted(hyperparameters.items()):
        arguments.append(f"--{name}" if len(name) > 1 else f"-{name}" if name else "")
        if isinstance(value, dict):
            arguments.append(",".join(f"{key}={item}" for key, item in sorted(value.items())))
        else:
            arguments.append("" if value is None else str(value))
    return tuple(arguments)


def _module_name(entry_point: str | None) -> str:
    # "None" where there is no entry point is what scripts have always seen.
    return str(entry_point).removesuffix(".py") if entry_point else "None"


def _training_env(job: _Facts) -> dict[str, Any]:
    config, paths = job.config, job.paths
    model_parallel = job.environ.get("SM_HP_MP_PARAMETERS")
    described = {
        "additional_framework_parameters": config.framework_parameters,
        "channel_input_dirs": {name: str(paths.input_data / name) for name in config.channels},
        "current_host": config.current_host,
        "current_instance_group": config.group_name,
        "current_instance_group_hosts": config.group_hosts,
        "current_instance_type": config.instance_type,
        "distribution_hosts": config.distribution_hosts,
        "distribution_instance_groups": config.distribution_groups,
        "framework_module": config.training_module,
        "hosts": config.hosts,
        "hyperparameters": config.hyperparameters,
        "input_config_dir": str(paths.input_config),
        "input_data_config": config.input_data_config,
        "input_dir": str(paths.input),
        "instance_groups": [group.name for group in config.groups],
        "instance_groups_dict": {group.name: group.raw for group in config.groups},
        "is_hetero": len(config.groups) > 1,
        "is_master": config.current_host == config.master,
        "is_modelparallel_enabled": model_parallel if not model_parallel else model_parallel != "{}",
        "is_smddpmprun_installed": False,
        "is_smddprun_installed": False,
        "job_name": config.job_name,
        "log_level": config.log_level,
        "master_hostname": config.master,
        "model_dir": str(paths.model),
        "module_dir": config.submit_directory,
        "module_name": _module_name(config.entry_point),
        "network_interface_name": config.network_interface,
        "num_cpus": job.hardware.cpus,
        "num_gpus": job.hardware.gpus,
        "num_neurons": job.hardware.neurons,
        "output_data_dir": str(paths.output_data),
        "output_dir": str(paths.output),
        "output_intermediate_dir": str(paths.intermediate),
        "resource_config": config.resource_config,
        "user_entry_point": config.entry_point,
    }
    return {**described, "topology": config.topology} if config.topology else described


def fit(spec: ProcessSpec) -> tuple[ProcessSpec, dict[str, str]]:
    """``spec`` with an environment that ``execve`` takes, and what had to be left out of it.

    One string may hold 32 pages, all together a quarter of the stack limit (Linux manual, execve(2), "Limits on size of
    arguments and environment"). Of ours, the largest go first.

    Raises JobDescriptionError when the arguments alone are too large.
    """
    longest = 32 * os.sysconf("SC_PAGESIZE")
    for argument in spec.argv:
        if _size(argument) > longest:
            name = spec.argv[spec.argv.index(argument) - 1]
            raise JobDescriptionError(
                f"the value of argument {name!r} has {_size(argument) - 1} bytes and one can hold {longest - 1}; "
                "put it in a file of an input channel"
            )
    # Some room for what the script's own children are given, and for the kernel's own use.
    room = os.sysconf("SC_ARG_MAX") - 64 * 1024 - sum(_size(argument) + 8 for argument in spec.argv)
    sizes = {name: _size(name) + _size(value) for name, value in spec.env.items()}
    largest_first = sorted((name for name in sizes if name.startswith("SM_")), key=lambda name: -sizes[name])
    total = sum(sizes.values()) + 8 * len(sizes)
    left_out: dict[str, str] = {}
    for name in largest_first:
        if sizes[name] <= longest and total <= room:
            break
        left_out[name] = spec.env[name]
        total -= sizes[name] + 8
    if total > room:
        raise JobDescriptionError(
            f"the script's arguments and variables are {total - room} bytes more than the kernel takes; "
            "put large hyperparameters in a file of an input channel"
        )
    return spec._replace(env={name: value for name, value in spec.env.items() if name not in left_out}), left_out


def _size(text: str) -> int:
    return len(os.fsencode(text)) + 1
