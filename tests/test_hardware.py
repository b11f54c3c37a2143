"""What the container may use: real cgroups of this machine, trees as the kernel lays them out, and device tools."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import wait_until
from tf_toolkit.hardware import Memory, cpu_count, detect_hardware, memory


def tool(directory: Path, name: str, script: str) -> dict[str, str]:
    """A PATH whose device tool is a shell script; the rest of it has what scripts need."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{directory}:/usr/bin:/bin"}


def test_no_tools_no_devices(tmp_path: Path) -> None:
    found = detect_hardware("ml.c5.xlarge", {"PATH": str(tmp_path)})
    assert (found.gpus, found.neurons, found.warnings) == (0, 0, ())
    assert found.cpus >= 1


def test_gpus_are_the_lines_of_nvidia_smi(tmp_path: Path) -> None:
    script = (
        'test "$1" = -L && printf "GPU 0: H200 (UUID: a)\\n  MIG 1g Device 0: (UUID: b)\\nGPU 1: H200 (UUID: c)\\n"'
    )
    assert detect_hardware("x", tool(tmp_path, "nvidia-smi", script)).gpus == 2


def test_neuron_cores_are_summed(tmp_path: Path) -> None:
    script = 'test "$1" = -j && echo \'[{"nc_count": 2}, {"nc_count": 8}]\''
    path = tool(tmp_path, "neuron-ls", script)
    assert detect_hardware("ml.trn1.2xlarge", path).neurons == 10
    assert detect_hardware("ml.trn2.48xlarge", path).neurons == 64


@pytest.mark.parametrize("name", ["nvidia-smi", "neuron-ls"])
def test_a_tool_that_fails_counts_nothing_and_warns(tmp_path: Path, name: str) -> None:
    found = detect_hardware("x", tool(tmp_path, name, "echo 'GPU 0: x'; exit 9"))
    assert (found.gpus, found.neurons) == (0, 0)
    assert f"{name} failed with status 9" in found.warnings[0]


@pytest.mark.parametrize("output", ["garbage", "[1]", '[{"nc_count": "many"}]', "[{}]", "[" * 5000])
def test_a_tool_that_prints_something_else_counts_nothing_and_warns(tmp_path: Path, output: str) -> None:
    found = detect_hardware("x", tool(tmp_path, "neuron-ls", f"echo '{output}'"))
    assert found.neurons == 0
    assert "neuron-ls printed" in found.warnings[0]


def test_a_tool_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    found = detect_hardware("x", tool(tmp_path, "nvidia-smi", f"sleep 600 & echo $! >{pid_file}; sleep 600"))
    assert found.gpus == 0
    assert "nvidia-smi gave no answer in 5 s" in found.warnings[0]
    pid = int(pid_file.read_text())
    wait_until(lambda: not is_running(pid), "the tool's child is gone")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_affinity_is_obeyed() -> None:
    one = next(iter(os.sched_getaffinity(0)))
    code = f"import os; os.sched_setaffinity(0, [{one}]); from tf_toolkit.hardware import cpu_count; print(cpu_count())"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"1\n"


def tree(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


@pytest.mark.parametrize(
    ("cgroup", "files"),
    [
        ("0::/\n", {"cpu.max": "100000 100000"}),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}),
        ("0::/on/the/host\n", {"cpu.max": "20000 100000"}),
        ("4:cpu,cpuacct:/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "100000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}),
        ("4:cpu:/docker/abc\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}),
    ],
)
def test_a_quota_of_one_cpu(tmp_path: Path, cgroup: str, files: dict[str, str]) -> None:
    assert cpu_count(tree(tmp_path, cgroup, files)) == 1


@pytest.mark.parametrize(
    ("cgroup", "files"),
    [
        ("", {}),
        ("0::/\n", {"cpu.max": "max 100000"}),
        ("0::/\n", {"cpu.max": "100000000 100000"}),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}),
        ("4:cpuacct:/\n", {"cpuacct/cpu.cfs_quota_us": "1000", "cpuacct/cpu.cfs_period_us": "100000"}),
    ],
)
def test_no_quota(tmp_path: Path, cgroup: str, files: dict[str, str]) -> None:
    assert cpu_count(tree(tmp_path, cgroup, files)) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("cgroup", "files", "found"),
    [
        (
            "0::/\n",
            {"memory.events": "oom 1\noom_kill 2\noom_group_kill 0", "memory.peak": "1000", "memory.max": "2000"},
            Memory(2, 1000, 2000),
        ),
        ("0::/a\n", {"a/memory.events": "oom_kill 0", "a/memory.max": "max", "memory.max": "77"}, Memory(0, None, 77)),
        (
            "5:memory:/docker/abc\n",
            {
                "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1",
                "memory/memory.max_usage_in_bytes": "500",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            Memory(1, 500, None),
        ),
        ("", {}, Memory(0, None, None)),
    ],
)
def test_memory(tmp_path: Path, cgroup: str, files: dict[str, str], found: Memory) -> None:
    assert memory(tree(tmp_path, cgroup, files)) == found


@contextlib.contextmanager
def real_cgroup(controller: str, files: dict[str, str]) -> Iterator[list[Path]]:
    """A control group of this machine (needs root); what to write a process id to, to put it in."""
    version_1 = Path("/sys/fs/cgroup") / controller
    group = (version_1 if version_1.is_dir() else Path("/sys/fs/cgroup")) / f"tf-toolkit-test-{os.getpid()}"
    if group.parent != version_1:
        (group.parent / "cgroup.subtree_control").write_text(f"+{controller}")
    group.mkdir()
    try:
        for name, value in files.items():
            if (group / name).exists():
                (group / name).write_text(value)
        yield [group / "cgroup.procs"]
    finally:
        group.rmdir()


def test_a_real_quota() -> None:
    files = {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "80000", "cpu.max": "80000 100000"}
    with real_cgroup("cpu", files) as [procs]:
        code = f"open({str(procs)!r}, 'w').write('0'); from tf_toolkit.hardware import cpu_count; print(cpu_count())"
        assert subprocess.check_output([sys.executable, "-c", code]) == b"1\n"
