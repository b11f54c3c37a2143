"""What the container may use: CPUs, memory, GPUs, Neuron cores. Never by importing a framework.

Control groups: https://docs.kernel.org/admin-guide/cgroup-v2.html and .../cgroup-v1/memory.html.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

# A wedged driver makes its tool hang; the job then goes on without the device.
TOOL_SECONDS = 5.0
# neuron-ls reports fewer cores there than the runtime offers (the training toolkit has the same exception).
_NEURONS_BY_TYPE = {"trn2.48xlarge": 64}
_ROOT = Path("/")
# A cgroup v1 without a limit reports the largest page-aligned 64-bit number.
_UNLIMITED = 1 << 60


class Hardware(NamedTuple):
    cpus: int
    gpus: int
    neurons: int
    warnings: tuple[str, ...]


class Memory(NamedTuple):
    """The memory cgroup's own words; None where it does not say. Sizes in bytes."""

    oom_kills: int
    peak: int | None
    limit: int | None


def detect_hardware(instance_type: str, environ: Mapping[str, str]) -> Hardware:
    """Look at this host. Tools run side by side, each for at most :data:`TOOL_SECONDS`."""
    path = environ.get("PATH", os.defpath)
    gpu_tool = _start(path, "nvidia-smi", "-L")
    neuron_tool = _start(path, "neuron-ls", "-j")
    warnings: list[str] = []
    try:
        gpus = _gpus(gpu_tool, warnings)
        listed = _neurons(neuron_tool, warnings)
    finally:
        _end(gpu_tool, neuron_tool)
    neurons = next((count for name, count in _NEURONS_BY_TYPE.items() if name in instance_type), listed)
    return Hardware(cpu_count(), gpus, neurons, tuple(warnings))


def cpu_count(root: Path = _ROOT) -> int:
    """CPUs that this process may use: its affinity, and its cgroups' quota rounded up."""
    available = len(os.sched_getaffinity(0))
    quotas = [quota for quota in _cpu_quotas(root) if quota > 0]
    return max(1, min([available, *(int(-(-quota // 1)) for quota in quotas)]))


def _cpu_quotas(root: Path) -> Iterator[float]:
    for group in _cgroups("cpu", root):
        v2 = _read(group / "cpu.max").split()
        if len(v2) == 2 and v2[0] != "max":
            yield int(v2[0]) / int(v2[1])
        quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            yield quota / period


def memory(root: Path = _ROOT) -> Memory:
    """What the nearest memory cgroup says."""
    for group in _cgroups("memory", root):
        events = _read(group / "memory.events") or _read(group / "memory.oom_control")
        killed = re.search(r"^oom_kill (\d+)$", events, re.MULTILINE)
        if killed is None:
            continue
        limits = [
            limit
            for parent in _cgroups("memory", root)
            for name in ("memory.max", "memory.limit_in_bytes")
            if (limit := _number(parent / name)) is not None and limit < _UNLIMITED
        ]
        peak = _number(group / "memory.peak")
        return Memory(
            int(killed[1]),
            _number(group / "memory.max_usage_in_bytes") if peak is None else peak,
            min(limits, default=None),
        )
    return Memory(0, None, None)


def available_memory(root: Path = _ROOT) -> int | None:
    """Bytes that this process may still take without being killed for it; None where nothing says."""
    free = [
        int(found[1]) * 1024
        for found in re.finditer(r"^MemAvailable: +(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    ]
    for group in _cgroups("memory", root):
        for limit_name, usage_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, usage = _number(group / limit_name), _number(group / usage_name)
            if limit is not None and usage is not None and limit < _UNLIMITED:
                # Pages of files that nobody reads are given back when they are needed.
                cache = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(group / "memory.stat"), re.MULTILINE)
                free.append(limit - usage + (int(cache[1]) if cache else 0))
    return max(0, min(free)) if free else None


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """This process's cgroup directory for a controller and its parents, nearest first.

    Inside a container the path in /proc/self/cgroup may be the host's, and the container's own group is then the root
    of the mount; so paths that are not there are skipped.
    """
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 1 mounts each controller; version 2, with an empty list of them, is the one mount.
        mount = next(
            (path for path in (mounts / controller, mounts / controllers) if controllers and path.is_dir()), mounts
        )
        directory = mount / group.strip("/")
        while directory != mount:
            if directory.is_dir():
                yield directory
            directory = directory.parent
        yield mount


def _gpus(tool: subprocess.Popen[str] | None, warnings: list[str]) -> int:
    if tool is None:
        return sum(1 for device in Path("/dev").glob("nvidia[0-9]*") if device.name[6:].isdigit())
    return sum(line.startswith("GPU ") for line in _output(tool, warnings).splitlines())


def _neurons(tool: subprocess.Popen[str] | None, warnings: list[str]) -> int:
    if tool is None:
        return 0
    output = _output(tool, warnings)
    try:
        return sum(int(device["nc_count"]) for device in json.loads(output or "[]"))
    except (ValueError, TypeError, KeyError, RecursionError):
        warnings.append("neuron-ls printed something other than a list of devices; assuming no Neuron cores")
        return 0


def _start(path: str, name: str, *arguments: str) -> subprocess.Popen[str] | None:
    # Not shutil.which: shutil loads every compression library, a megabyte that would stay beside the script.
    candidates = (Path(directory) / name for directory in path.split(os.pathsep))
    program = next((candidate for candidate in candidates if os.access(candidate, os.X_OK)), None)
    if program is None:
        return None
    try:
        return subprocess.Popen(
            [str(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError:
        return None


def _output(tool: subprocess.Popen[str], warnings: list[str]) -> str:
    """What a device tool printed, or nothing, with a warning, if it failed or hung."""
    name = Path(str(tool.args[0])).name  # type: ignore[index]
    try:
        output, _ = tool.communicate(timeout=TOOL_SECONDS)
    except subprocess.TimeoutExpired:
        warnings.append(f"{name} gave no answer in {TOOL_SECONDS:.0f} s; assuming none of its devices")
        return ""
    if tool.returncode != 0:
        warnings.append(f"{name} failed with status {tool.returncode}; assuming none of its devices")
        return ""
    return output


def _end(*tools: subprocess.Popen[str] | None) -> None:
    """End what still runs, with its children, which hold the pipe; it is not waited for, as the driver may hold it."""
    for tool in tools:
        if tool is not None and tool.poll() is None:
            os.killpg(tool.pid, signal.SIGKILL)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None
