"""What the container may use, and where it may write."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from tf_toolkit import hardware
from tf_toolkit.contract import Paths
from tf_toolkit.hardware import Hardware
from tf_toolkit.local.doctor.check import Check, failed, passed, size, warned

# Importing TensorFlow alone takes 400 to 560 MiB, 2.15 and 2.21.
_MEMORY = 2**30
_SHARED_MEMORY = Path("/dev/shm")
# Open MPI 4 takes 4 MiB for each rank of a host (btl_vader_segment_size), and Docker gives 64 MiB.
_SHARED_FOR_RANKS = 64 * 2**20
# "Troubleshooting", NCCL's user guide, https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html,
# asks for --shm-size=1g.
_SHARED_FOR_GPUS = 2**30
# For a model with its checkpoints, or the requirements of a job while they are installed.
_DISK = 2**30


def cpus() -> Check:
    found, all_of_them = hardware.cpu_count(), os.cpu_count()
    return passed("CPUs", f"{found}" if found == all_of_them else f"{found} of the machine's {all_of_them}")


def memory() -> Check:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = hardware.memory().limit
    most = machine if limit is None else min(machine, limit)
    found = f"limited to {size(most)}" if most < machine else f"{size(most)}, all of the machine's"
    if most < _MEMORY:
        remedy = f"{size(_MEMORY)} at least, as importing TensorFlow takes half of it: docker run --memory 4g"
        return warned("memory", found, remedy)
    return passed("memory", found)


def shared_memory(gpus: Hardware) -> Check:
    """What ranks on one host exchange their data through, and GPUs."""
    try:
        free = shutil.disk_usage(_SHARED_MEMORY).free
    except OSError as error:
        return failed("shared memory", f"{_SHARED_MEMORY}: {error.strerror}", "docker run --shm-size 1g")
    found = f"{size(free)} free in {_SHARED_MEMORY}"
    wanted, whose = (_SHARED_FOR_GPUS, "GPUs") if gpus.gpus else (_SHARED_FOR_RANKS, "ranks of MPI")
    if free < wanted:
        return warned("shared memory", found, f"{size(wanted)} at least for {whose}: docker run --shm-size 1g")
    return passed("shared memory", found)


def results(paths: Paths) -> Check:
    """Whether `train` can write model and output. What is made for that is removed again."""
    user = os.geteuid()
    try:
        if not paths.root.is_dir():
            remedy = f"`train` works there: docker run --volume TREE:{paths.root}, or set SAGEMAKER_BASE_DIR"
            return warned("results", f"there is no {paths.root}", remedy)
        for folder in (paths.model, paths.output):
            with contextlib.ExitStack() as stack:
                if not folder.is_dir():
                    folder.mkdir()
                    stack.callback(folder.rmdir)
                _write(folder)
    except OSError as error:
        remedy = f"mount a volume at {paths.root} that user {user} may write to, or choose another user with --user"
        return failed("results", f"user {user} cannot write: {_words(error)}", remedy)
    return passed("results", f"{paths.model} and {paths.output} can be written")


def temporary_files() -> Check:
    try:
        found = tempfile.gettempdir()
        _write(Path(found))
    except OSError as error:
        remedy = "let there be a /tmp that can be written, and has room: docker run --tmpfs /tmp"
        return failed("temporary files", _words(error), remedy)
    return passed("temporary files", f"{found} can be written")


def disk(paths: Paths) -> Check:
    """Free space for results and temporary files."""
    free = {}
    try:
        for folder in (paths.root, Path(tempfile.gettempdir())):
            # Missing ones would be made in the nearest that is there.
            there = next(parent for parent in (folder, *folder.parents) if parent.exists())
            free[folder] = shutil.disk_usage(there).free
    except OSError as error:
        return warned("disk", f"not known: {_words(error)}", "see results and temporary files")
    found = ", ".join(f"{size(count)} free in {folder}" for folder, count in free.items())
    if min(free.values()) < _DISK:
        return warned("disk", found, f"free some, or mount a larger volume: {size(_DISK)} at least")
    return passed("disk", found)


def _words(error: OSError) -> str:
    return ": ".join(str(part) for part in (error.filename, error.strerror) if part)


def _write(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".tf-toolkit-doctor-") as file:
        file.write(b"\0")
        file.flush()
