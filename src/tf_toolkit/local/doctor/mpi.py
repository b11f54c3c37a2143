"""Open MPI and what is built on it, each tried with two ranks on this machine and the options that a job has."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from importlib import metadata
from typing import NamedTuple

from tf_toolkit import contract
from tf_toolkit.config import JobConfig
from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.local.doctor.check import Check, failed, passed, warned
from tf_toolkit.local.doctor.job import interface_of
from tf_toolkit.local.doctor.later import Processes, Ran, program
from tf_toolkit.local.doctor.software import TensorFlow
from tf_toolkit.mpi_options import parameter
from tf_toolkit.mpirun import Job, command_line, mpi_version
from tf_toolkit.mpirun import program as find

_RANKS = 2
# Open MPI gives each rank a process group of its own, so mpirun's end must end it.
_DIE_WITH_MPIRUN = "import ctypes, signal\nctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)\n"
# Ranks that fail have nothing to save, for which mpirun would wait.
_AT_ONCE = (parameter("--mca", "odls_base_sigkill_timeout", "1"),)
_RANK = "import os\nsay(size=int(os.environ['OMPI_COMM_WORLD_SIZE']))\n"
_MPI4PY = "from mpi4py import MPI\nsay(size=MPI.COMM_WORLD.allreduce(1))\n"
_HOROVOD = """
import horovod.tensorflow as hvd
say(mpi=bool(hvd.mpi_built()))
hvd.init()
say(size=hvd.size())
hvd.shutdown()
"""


class OpenMPI(NamedTuple):
    check: Check
    # Runs a program as each of the ranks; None where it cannot.
    launch: Callable[[str], Ran] | None


def look_at_mpirun(processes: Processes, config: JobConfig | None) -> OpenMPI:
    """Find it, and have it run a program."""
    try:
        mpirun = find("mpirun", processes.environ)
    except JobDescriptionError:
        return OpenMPI(_absent(config), None)
    asked = processes.run(mpirun, "--version")
    if asked.status != 0:
        remedy = "install Open MPI anew (Debian: openmpi-bin)"
        return OpenMPI(failed("mpirun", f"{mpirun} --version: {asked.cause}", remedy), None)
    try:
        version = mpi_version(mpirun)
        command = _command(mpirun, version, config, processes)
    except JobDescriptionError as error:
        return OpenMPI(failed("mpirun", str(error), "put Open MPI's first on PATH"), None)
    except ImportError as error:
        return OpenMPI(failed("mpirun", f"not tried: {error}", "see requirements"), None)

    one_at_a_time = threading.Lock()

    def launch(code: str) -> Ran:
        # Open MPI 4 may remove the directory of all its runs just when another wants to use it.
        with one_at_a_time:
            return processes.run(*command, *program(_DIE_WITH_MPIRUN + code))

    ran = launch(_RANK)
    what = f"Open MPI {'.'.join(map(str, version))}"
    if _ranks(ran) != _RANKS:
        found = f"{what} does not run {_RANKS} ranks: {_why(ran)}"
        return OpenMPI(failed("mpirun", found, _all_of_it(mpirun)), None)
    return OpenMPI(passed("mpirun", f"{what} runs {_RANKS} ranks"), launch)


def _absent(config: JobConfig | None) -> Check:
    remedy = "install Open MPI (Debian: openmpi-bin)"
    if config is not None and config.flag(contract.MPI_ENABLED):
        return failed("mpirun", "not on PATH, and the job is one of MPI", remedy)
    return warned("mpirun", "not on PATH", f"for jobs of MPI and Horovod {remedy}")


def mpi4py(mpi: OpenMPI) -> Check:
    if importlib.util.find_spec("mpi4py") is None:
        remedy = "pip install mpi4py: without it an exception in one rank may leave the others waiting for it"
        return warned("mpi4py", "not installed", remedy)
    what = _version("mpi4py")
    if mpi.launch is None:
        return warned("mpi4py", f"{what}, not tried without mpirun", "see mpirun")
    ran = mpi.launch(_MPI4PY)
    if _ranks(ran) != _RANKS:
        remedy = "install the mpi4py that is made for this Open MPI: pip install --force-reinstall mpi4py"
        return failed("mpi4py", f"{what} does not join {_RANKS} ranks: {_why(ran)}", remedy)
    return passed("mpi4py", f"{what} joins {_RANKS} ranks")


def horovod(mpi: OpenMPI, tensorflow: TensorFlow) -> Check:
    if importlib.util.find_spec("horovod") is None:
        return passed("Horovod", "not installed")
    what = _version("horovod")
    if tensorflow.version is None:
        return failed("Horovod", f"{what}, not tried without TensorFlow", "see TensorFlow")
    if mpi.launch is None:
        return warned("Horovod", f"{what}, not tried without mpirun", "see mpirun")
    ran = mpi.launch(_HOROVOD)
    remedy = f"build it for TensorFlow {tensorflow.version}, with HOROVOD_WITH_MPI=1 HOROVOD_WITH_TENSORFLOW=1"
    if ran.answer.get("mpi") is False:
        return failed("Horovod", f"{what} is built without MPI", remedy)
    if _ranks(ran) != _RANKS:
        found = f"{what} does not join {_RANKS} ranks: {_why(ran)}"
        return failed("Horovod", found, f"unless a line above tells why, {remedy}")
    return passed("Horovod", f"{what} with MPI and TensorFlow joins {_RANKS} ranks")


def _command(mpirun: str, version: tuple[int, ...], config: JobConfig | None, processes: Processes) -> tuple[str, ...]:
    """A job's command line for ranks on one host, up to what is to run."""
    job = Job(
        hosts=("localhost",),
        slots=_RANKS,
        ranks=_RANKS,
        interface=interface_of(config),
        instance_types=(),
        variables=processes.environ,
        version=version,
    )
    return command_line(mpirun, job, _AT_ONCE if version < (5,) else (), run=())


def _all_of_it(mpirun: str) -> str:
    shows = f"`{mpirun} --allow-run-as-root --host localhost:{_RANKS} -np {_RANKS} hostname` shows all"
    return f"unless a line above tells why, install Open MPI anew; {shows}"


def _ranks(ran: Ran) -> int:
    """How many ranks there were, by what every one of them says."""
    sizes = [said["size"] for said in ran.said if "size" in said]
    return len(sizes) if ran.status == 0 and set(sizes) == {len(sizes)} else 0


def _why(ran: Ran) -> str:
    if ran.cause:
        return ran.cause
    came = len(ran.said)
    return "each is alone" if came == _RANKS else f"only {came} came"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "of no known version"
