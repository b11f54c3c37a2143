"""Open MPI: one mpirun on the first host, which has a rank started for each slot of every host.

mpirun has its daemon started on the other hosts by ``tf_toolkit.rsh``, which asks their own launchers for it, so each
host's ranks have the variables of their own host's launcher. That is why none of the user's and none of ``SM_*`` is
passed with ``-x``, and no value of a variable of the user's stands on the command line. And no host name is made up
by a preloaded library: Open MPI's daemons are told apart by what they are called here.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tf_toolkit import contract, mkl, network, tf_config
from tf_toolkit.config import JobConfig
from tf_toolkit.environment import Environment, command_variables
from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.hardware import Hardware
from tf_toolkit.mpi_options import Option, custom_options
from tf_toolkit.mpirun import CWD, Job, command_line, mpi_version, node_name, program
from tf_toolkit.process import Command, ProcessSpec
from tf_toolkit.section import found_type

log = logging.getLogger("tf_toolkit")

_MPI4PY = "mpi4py"


def applies(config: JobConfig) -> bool:
    return config.flag(contract.MPI_ENABLED) and config.current_host in config.distribution_hosts


def processes(config: JobConfig, command: Command, env: Environment) -> tuple[ProcessSpec, ...]:
    """mpirun on the first host. The others' processes come when it asks for them: :func:`daemon`.

    Raises JobDescriptionError.
    """
    slots = slots_per_host(config, env.hardware)
    ranks = _rank_count(config, slots)
    options = custom_options(config.framework_parameters.get(contract.MPI_OPTIONS))
    mpirun = program("mpirun", env.variables)
    if _is_python(command) and not _has_mpi4py():
        log.warning("mpi4py is not installed: an exception in one rank may leave the others waiting for it")
    if config.current_host != config.master:
        return ()
    _refuse_too_many(ranks, slots, config, options)
    job = Job(
        hosts=config.distribution_hosts,
        slots=slots,
        ranks=ranks,
        interface=_interface(config),
        instance_types=_instance_types(config),
        variables=env.variables,
        version=mpi_version(mpirun),
    )
    argv = command_line(mpirun, job, options)
    return (ProcessSpec("mpirun", argv, _variables(config, command, env), CWD, ranks=True),)


def daemon(config: JobConfig, command: Command, env: Environment, arguments: Sequence[str]) -> ProcessSpec:
    """Open MPI's daemon on this host, with the arguments that mpirun has for it."""
    version = mpi_version(program("mpirun", env.variables))
    name = "orted" if version < (5,) else "prted"
    variables = _variables(config, command, env)
    if network.is_loopback(config.current_host):
        variables |= _of_its_own(config, variables[contract.DOOR])
    argv = (program(name, env.variables), *arguments)
    return ProcessSpec("Open MPI daemon", argv, variables, CWD, ranks=True)


def rank_command(config: JobConfig, command: Command, env: Environment) -> tuple[tuple[str, ...], str]:
    """The command of each rank on this host, and its working directory.

    Python goes through ``mpi4py``, which aborts all ranks when one ends in an exception, where the others would wait
    for it in vain.
    """
    argv = command.argv
    if _is_python(command) and _has_mpi4py():
        python, *rest = argv
        argv = (python, "-m", _MPI4PY, *(rest[1:] if rest[:1] == ["--"] else rest))
    return (*argv, *env.arguments), command.directory


def host_of_node(config: JobConfig, node: str) -> str:
    """The host that mpirun knows by this name.

    Raises JobDescriptionError for a node that is none of the job's: an option of the user's named it.
    """
    hosts = config.distribution_hosts
    found = [host for host in hosts if node in (host, node_name(host, hosts))]
    if not found:
        raise JobDescriptionError(f"mpirun asks for the host {node!r}, which is none of {', '.join(hosts)}")
    return found[0]


def _is_python(command: Command) -> bool:
    return command.argv[0] == sys.executable


def _has_mpi4py() -> bool:
    return importlib.util.find_spec(_MPI4PY) is not None


def _of_its_own(config: JobConfig, door: str) -> dict[str, str]:
    """What keeps a daemon of Open MPI 4 and its ranks apart from those of other hosts on the same machine."""
    directory = str(Path(door).parent)
    return {
        # Ranks of one host name share memory.
        "PMIX_HOSTNAME": node_name(config.current_host, config.distribution_hosts),
        # Segments of shared memory are named by a rank's number on its host.
        "OMPI_MCA_btl_vader_backing_directory": directory,
        # Session directories are named by the machine's host name.
        "OMPI_MCA_orte_tmpdir_base": directory,
    }


def _variables(config: JobConfig, command: Command, env: Environment) -> dict[str, str]:
    """The environment of this host's daemon or mpirun, which its ranks inherit."""
    return {
        **env.variables,
        **mkl.variables(config, env.hardware.cpus, slots_per_host(config, env.hardware), env.variables),
        **command_variables(command, env.variables),
        **tf_config.multi_worker(config, env.variables),
    }


def slots_per_host(config: JobConfig, hardware: Hardware) -> int:
    """How many ranks a host may have: as asked for, else one for each GPU, else for each Neuron core, else one."""
    return _count(config, contract.MPI_PROCESSES_PER_HOST) or hardware.gpus or hardware.neurons or 1


def _rank_count(config: JobConfig, slots: int) -> int:
    return _count(config, contract.MPI_PROCESSES) or slots * len(config.distribution_hosts)


def _count(config: JobConfig, name: str) -> int | None:
    """A count of the user's; None for the default, which 0, null and empty text are too."""
    value = config.framework_parameters.get(name)
    number: object = value
    if isinstance(value, str):
        text = value.strip()
        number = int(text) if re.fullmatch(r"[+-]?[0-9]{1,9}", text) else None if not text else value
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    if number is None or (number == 0 and not isinstance(number, bool)):
        return None
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise _wrong(name, found_type(value), "a whole number of processes; 0 is the default")
    return number


def _refuse_too_many(ranks: int, slots: int, config: JobConfig, options: Sequence[Option]) -> None:
    """Before mpirun does, which says it in many more lines, unless an option of the user's makes room."""
    hosts = len(config.distribution_hosts)
    words = " ".join(word for option in options for word in option.words).lower()
    own = {("flag", "host"), ("flag", "hostfile"), ("flag", "np")} & {option.key for option in options}
    if ranks > slots * hosts and not own and "oversubscribe" not in words:
        raise _wrong(
            contract.MPI_PROCESSES,
            str(ranks),
            f"at most {slots * hosts}, as there are {slots} for each of {hosts} host{'s' if hosts > 1 else ''} "
            f"({contract.MPI_PROCESSES_PER_HOST})",
        )


def _wrong(name: str, found: str, expected: str) -> JobDescriptionError:
    return JobDescriptionError(f"{contract.HYPERPARAMETERS_FILE}: key {name!r}: found {found}, expected {expected}")


def _instance_types(config: JobConfig) -> tuple[str, ...]:
    """Those of all hosts that take part."""
    groups = [group for group in config.groups if group.name in config.distribution_groups]
    return tuple(group.instance_type or config.instance_type for group in groups) or (config.instance_type,)


def _interface(config: JobConfig) -> str:
    others = [host for host in config.distribution_hosts if host != config.current_host]
    found = network.interface(config.network_interface, config.current_host, others)
    if found != config.network_interface and not network.is_loopback(config.current_host):
        log.warning(
            "%s: network_interface_name is %r, which this host has not; using %r, which carries its address",
            contract.RESOURCE_CONFIG_FILE,
            config.network_interface,
            found,
        )
    return found
