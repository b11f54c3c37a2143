"""`tf-toolkit run --image`: jobs in containers, whose results come back, and of which nothing stays."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_hosts import ROOT, image

from command_line import DUMP, everything, finish, script, start, trap
from conftest import DEADLINE, PROGRAMS, Result, wait_until
from packages import wheel
from tf_toolkit import contract
from tf_toolkit.local import tree

pytestmark = pytest.mark.containers

LABEL = "tf-toolkit.run"
# A job of some processes in containers, on a machine that does other things as well.
JOB_DEADLINE = 3 * DEADLINE


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout


def left() -> list[str]:
    """What runs of ours have on the daemon."""
    chosen = ("--filter", f"label={LABEL}", "--quiet")
    kinds: tuple[tuple[str, ...], ...] = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
    return [name for kind in kinds for name in docker(*kind, *chosen).split()]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    assert left() == []
    yield
    assert left() == []


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A person's folder: dump.py, two channels."""
    script(tmp_path, DUMP.read_text(), "code/dump.py")
    script(tmp_path, "1,2\n", "data/a.csv")
    script(tmp_path, "3,4\n", "test.csv")
    return tmp_path


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Builds small images; their `train` may be a shell script."""
    built: list[str] = []

    def build(dockerfile: str, train: str = "") -> str:
        folder = tmp_path_factory.mktemp("image")
        script(folder, dockerfile, "Dockerfile")
        script(folder, f"#!/bin/sh\n{train}", "train")
        (folder / "train").chmod(0o755)
        built.append(f"tf-toolkit-test:{folder.name}")
        docker("build", "--tag", built[-1], str(folder))
        return built[-1]

    yield build
    for tag in built:
        docker("rmi", "--force", tag)


SMALL = "FROM debian:bookworm-slim\nCOPY train /usr/local/bin/train\n"


def begin(desk: Path, *words: str, of: str = "", **options: Any) -> subprocess.Popen[bytes]:
    words = ("run", "--image", of or image(), "--output", "out", *words)
    return start(desk, *words, start_new_session=True, **options)


def run(desk: Path, *words: str, of: str = "", **options: Any) -> Result:
    return finish(begin(desk, *words, of=of, **options), desk, JOB_DEADLINE)


def seen(result: Result, host: str, name: str) -> Any:
    return json.loads((result.root / host / "output" / "data" / name).read_text())


def test_a_job_on_one_host_is_as_on_the_platform(desk: Path) -> None:
    wheel(desk / "code" / "wheels", "greeting", "1.0")
    script(desk, "greeting\n", "code/requirements.txt")
    script(desk, f"import greeting\n{DUMP.read_text()}", "code/dump.py")
    before = everything(desk)

    result = run(
        desk,
        *("code/dump.py", "--train", "data", "--channel", "test=test.csv", "--hp", "layers=[64, 32]"),
        *("--cpus", "1", "--env", "PIP_NO_INDEX=1", "--env", "API_KEY", "--env", "EQUATION=a = b"),
        variables={"API_KEY": "sesame-open", "PRIVATE": "mine"},
    )

    assert result.status == 0, result.log
    env = result.seen["env"]
    assert result.seen["argv"] == ["--layers", "[64, 32]"]
    assert (env["SM_CURRENT_HOST"], env["SM_HOSTS"], env["SM_NUM_CPUS"]) == ("algo-1", '["algo-1"]', "1")
    assert (env["SM_NETWORK_INTERFACE_NAME"], env["SM_CURRENT_INSTANCE_TYPE"]) == ("eth0", "local")
    assert (env["SM_CHANNEL_TEST"], env["SM_MODEL_DIR"]) == ("/opt/ml/input/data/test", "/opt/ml/model")
    assert (env["API_KEY"], env["EQUATION"]) == ("sesame-open", "a = b")
    assert re.fullmatch(r"dump-\d{8}-\d{6}-\d{6}", env["TRAINING_JOB_NAME"])
    assert "PRIVATE" not in env and "sesame" not in result.log
    assert result.succeeded
    assert sorted(path.name for path in result.root.iterdir()) == [tree.MARKER, "model", "output"]
    assert {path.owner() for path in result.root.rglob("*")} == {desk.owner()}
    assert result.log.endswith(f"tf-toolkit: model: {result.root}/model\n")
    after = everything(desk)
    assert {name: after[name] for name in after if name.split("/")[0] != "out"} == before


CHANNELS = """
import os, sys
for name in ("TRAIN", "TEST"):
    folder = os.environ[f"SM_CHANNEL_{name}"]
    print(name, sorted(os.listdir(folder)))
    try:
        open(f"{folder}/new", "w" if name == "TRAIN" else "r")
    except OSError as error:
        print(type(error).__name__, error.errno)
print(sys.argv[1:], os.listdir())
os.mkdir("written")
"""


def test_channels_are_mounted_read_only_and_the_code_is_a_copy(desk: Path) -> None:
    script(desk, CHANNELS, "train.py")
    before = everything(desk)

    words = ("--train", "data", "--channel", "test=test.csv", "--channel", "more=code")
    result = run(desk, "train.py", *words, "--", "--x", "a b", "$(id)")

    assert result.status == 0, result.log
    assert result.stdout.decode().splitlines() == [
        "TRAIN ['a.csv']",
        # Read-only file system.
        "OSError 30",
        "TEST ['test.csv']",
        "FileNotFoundError 2",
        "['--x', 'a b', '$(id)'] ['test.csv', 'train.py']",
    ]
    after = everything(desk)
    assert {name: after[name] for name in after if name.split("/")[0] != "out"} == before


def test_both_streams_are_passed_on_byte_for_byte(desk: Path) -> None:
    garbage = b"\r10%\r20%\n\n\x00\xff\xfe\x1b[31m" + b"x" * 2_000_000 + b"\r\nno end"
    (desk / "code" / "garbage").write_bytes(garbage)
    text = "import sys\nraw = open('garbage', 'rb').read()\n"
    script(desk, f"{text}sys.stdout.buffer.write(raw)\nsys.stderr.buffer.write(raw)", "code/train.py")

    result = run(desk, "code/train.py")

    assert result.stdout == garbage
    assert garbage in result.stderr


def test_ranks_on_two_hosts(desk: Path) -> None:
    words = ("--hosts", "2", "--distribution", "mpi", "--processes-per-host", "2")
    result = run(desk, str(PROGRAMS / "containers" / "sums.py"), *words)

    assert result.status == 0, result.log
    for number in range(4):
        host = f"algo-{number // 2 + 1}"
        rank = seen(result, host, f"rank-{number}.json")
        assert (rank["hostname"], rank["size"], rank["local size"], rank["sum"]) == (host, 4, 2, 10)
        line = f"[algo-1] [1,mpirank:{number},{host}]<stdout>:rank {number} of 4 adds up to 10"
        assert line in result.stdout.decode().splitlines()
    assert sorted(path.name for path in result.root.iterdir()) == [tree.MARKER, "algo-1", "algo-2", "model"]


TASK = """
import json, os, socket
task = json.loads(os.environ["TF_CONFIG"])
for address in task["cluster"]["worker"]:
    socket.getaddrinfo(*address.split(":"))
print(task["task"]["type"], task["task"]["index"], len(os.environ.get("TF_TOOLKIT_CLUSTER_KEY", "")))
open(os.environ["SM_MODEL_DIR"] + "/" + os.environ["SM_CURRENT_HOST"], "w")
"""


def test_hosts_of_a_strategy_know_one_another_and_share_the_model_directory(desk: Path) -> None:
    script(desk, TASK, "code/train.py")

    result = run(desk, "code/train.py", "--hosts", "2", "--distribution", "multi_worker_mirrored")

    assert result.status == 0, result.log
    assert sorted(result.stdout.decode().splitlines()) == [
        f"[algo-{number + 1}] worker {number} 64" for number in range(2)
    ]
    assert sorted(path.name for path in (result.root / "model").iterdir()) == ["algo-1", "algo-2"]


def test_a_failing_script_passes_its_status_on_and_its_output_comes_back(desk: Path) -> None:
    text = "import os\nopen(os.environ['SM_OUTPUT_DATA_DIR'] + '/x', 'w')\nraise ValueError('no such luck')"
    script(desk, text, "code/train.py")

    result = run(desk, "code/train.py")

    assert result.status == 1
    assert (result.root / "output" / "data" / "x").exists()
    assert "ValueError: no such luck" in result.headline
    assert result.log.splitlines()[-1].startswith(f"tf-toolkit: failure: {result.root}/output/failure: user code: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_reaches_every_host_and_what_the_scripts_save_comes_back(desk: Path, number: signal.Signals) -> None:
    script(desk, trap("$SM_CURRENT_HOST"), "code/train.py")
    process = begin(desk, "code/train.py", "--hosts", "2")
    assert process.stdout is not None
    assert {process.stdout.readline() for _ in range(2)} == {b"[algo-1] begun\n", b"[algo-2] begun\n"}

    os.killpg(process.pid, number)
    # Somebody who cannot wait.
    os.killpg(process.pid, number)
    result = finish(process, desk, JOB_DEADLINE)

    assert result.status == 0, result.log
    saved = {path.name: path.read_text() for path in (result.root / "model").iterdir()}
    assert saved == dict.fromkeys(("algo-1", "algo-2"), str(int(number)))
    assert "Traceback" not in result.log


@pytest.mark.parametrize("kind", ["network", "volume", "container"])
def test_a_stop_before_the_job_has_begun_leaves_nothing(desk: Path, kind: str) -> None:
    script(desk, trap("$SM_CURRENT_HOST"), "code/train.py")
    process = begin(desk, "code/train.py", "--hosts", "2")
    listing = (kind, "ls", *(["--all"] if kind == "container" else []), "--filter", f"label={LABEL}", "--quiet")
    wait_until(lambda: docker(*listing), f"there is a {kind}")

    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGINT)
    result = finish(process, desk, JOB_DEADLINE)

    assert result.status == 130, result.log
    assert "Traceback" not in result.log


def test_a_host_that_is_killed_ends_the_job_and_is_named(desk: Path) -> None:
    script(desk, "import time\nprint('begun', flush=True)\ntime.sleep(600)", "code/train.py")
    process = begin(desk, "code/train.py", "--hosts", "2")
    assert process.stderr is not None
    while b"[algo-2]" not in (line := process.stderr.readline()) or b"cluster: joined" not in line:
        assert line

    docker("kill", *docker("ps", "--quiet", "--filter", f"label={LABEL}", "--filter", "name=algo-2").split())
    result = finish(process, desk, JOB_DEADLINE)

    assert result.status == contract.CLUSTER_FAILED, result.log
    assert "tf-toolkit: algo-2 ended with status 137 and without a word\n" in result.log
    assert result.log.endswith("cluster: host algo-2 is gone: its launcher ended without a word\n")


# Whoever ends at once has not told the other, who waits for it.
DIES_ALONE = """
case $(hostname) in algo-2) exit 137;; esac
trap "echo told; exit 143" TERM
echo waits
sleep 600 & wait
"""
HEARS_SOON = """
import sys
from tf_toolkit.local import cli, containers
containers.HEARING_SECONDS = 0.5
sys.exit(cli.main())
"""


def test_hosts_that_cannot_have_heard_of_a_dead_one_are_told(desk: Path, build: Callable[..., str]) -> None:
    words = ("run", "code/dump.py", "--hosts", "2", "--output", "out", "--image", build(SMALL, DIES_ALONE))
    command = [sys.executable, "-c", HEARS_SOON, *words]

    ended = subprocess.run(command, cwd=desk, capture_output=True, timeout=DEADLINE, check=False)

    assert (ended.returncode, ended.stdout) == (143, b"[algo-1] waits\n[algo-1] told\n"), ended.stderr


def test_too_little_memory_is_named_as_the_cause(desk: Path) -> None:
    result = run(desk, str(PROGRAMS / "containers" / "memory.py"), "--memory", "200m")

    assert result.status == 137
    assert result.headline.startswith("user code: out of memory: the kernel killed 1 process(es)")
    assert "limit 200 MiB" in result.headline


def test_hosts_have_colours_of_their_own_on_a_terminal_only(desk: Path, build: Callable[..., str]) -> None:
    keyboard, device = pty.openpty()
    says = build(SMALL, "echo said; echo logged >&2")
    process = begin(desk, "code/dump.py", "--hosts", "2", of=says, stdout=device, variables={"TERM": "xterm"})
    _, log = process.communicate(timeout=DEADLINE)
    os.close(device)

    written = os.read(keyboard, 4096)
    os.close(keyboard)
    colours = dict(re.findall(rb"^\x1b\[(\d+)m\[(\S+)\]\x1b\[0m said\r$", written, re.MULTILINE))
    assert sorted(colours.values()) == [b"algo-1", b"algo-2"]
    assert {b"[algo-1] logged", b"[algo-2] logged"} < set(log.splitlines())


HOSTILE = """
cd /opt/ml/model
ln -s /etc/passwd absolute
ln -s ../../../etc/passwd relative
ln -s /opt/ml/output folder
ln -s good inside
mknod device c 1 3
mkfifo fifo
echo good > good
ln good twice
chmod 4777 good
mkdir -p deep/er && echo x > deep/er/x && chmod 0 deep/er/x
rm -rf /opt/ml/output && ln -s /etc /opt/ml/output
"""


def test_what_comes_out_is_harmless_whatever_the_script_left(desk: Path, build: Callable[..., str]) -> None:
    result = run(desk, "code/dump.py", of=build(SMALL, HOSTILE))

    assert result.status == 0, result.log
    model = result.root / "model"
    assert sorted(str(path.relative_to(model)) for path in model.rglob("*")) == [
        "deep",
        "deep/er",
        "deep/er/x",
        "good",
        "inside",
        "twice",
    ]
    assert (model / "good").stat().st_mode & 0o7777 == 0o755
    assert (model / "inside").readlink() == Path("good")
    assert {path.lstat().st_uid for path in result.root.rglob("*")} == {os.getuid()}
    assert "/opt/ml/model: left out what leads out of it" in result.log


def test_results_that_could_not_be_copied_are_not_lost(desk: Path, build: Callable[..., str]) -> None:
    """A limit on the size of files stands for a full disk."""
    writes = build(SMALL, "head -c 3000000 /dev/zero > /opt/ml/model/weights")
    full = (1 << 20, 1 << 20)

    result = run(desk, "code/dump.py", of=writes, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, full))

    assert result.status == 1, result.log
    commands = re.findall(r"`(docker [^`]*)`", result.log)
    for command in commands:
        subprocess.run(["sh", "-c", command.replace("HOST", "algo-1")], cwd=desk, check=True, timeout=DEADLINE)
    assert (desk / "model" / "weights").stat().st_size == 3_000_000


def test_results_are_not_lost_with_a_channel(desk: Path, build: Callable[..., str]) -> None:
    """Docker gives nothing out of a container whose mounts are gone."""
    saves = "trap 'echo trained > /opt/ml/model/weights; exit 0' TERM; echo begun; while :; do sleep 0.1; done"
    process = begin(desk, "code/dump.py", "--train", "data", of=build(SMALL, saves))
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    (desk / "data").rename(desk / "away")

    os.killpg(process.pid, signal.SIGTERM)
    result = finish(process, desk, JOB_DEADLINE)

    assert result.status == 125, result.log
    assert f"channel 'train': '{desk}/data' is gone" in result.log
    (desk / "data").mkdir()
    for command in re.findall(r"`(docker [^`]*)`", result.log):
        subprocess.run(["sh", "-c", command.replace("HOST", "algo-1")], cwd=desk, check=True, timeout=DEADLINE)
    assert (desk / "model" / "weights").read_text() == "trained\n"


def test_an_image_whose_user_is_not_root(desk: Path, build: Callable[..., str]) -> None:
    unprivileged = build(f"FROM {image()}\nUSER 1234\n")
    (desk / "code" / "dump.py").chmod(0o600)

    result = run(desk, "code/dump.py", "--hosts", "2", of=unprivileged)

    assert result.status == 0, result.log
    assert result.seen["env"]["SM_CURRENT_HOST"] in ("algo-1", "algo-2")
    assert all((result.root / host / "output" / "success").exists() for host in ("algo-1", "algo-2"))


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("no/such:image", [], "the Docker daemon has no such image; `docker pull no/such:image`"),
        ("A B", [], "--image 'A B': "),
        ("debian:bookworm-slim", [], "--image 'debian:bookworm-slim' has no program `train`"),
        ("debian:bookworm-slim", ["--cpus", "100000"], "Range of CPUs"),
    ],
)
def test_what_docker_does_not_do_is_one_line(desk: Path, name: str, words: list[str], said: str) -> None:
    result = run(desk, "code/dump.py", "--hosts", "2", *words, of=name)

    assert result.status == 125
    assert said in result.log.splitlines()[-1]
    assert "Traceback" not in result.log


def test_a_channel_that_the_daemon_cannot_see_is_named(desk: Path) -> None:
    """A mount of the client's own stands for another machine."""
    words = [sys.executable, "-m", "tf_toolkit.local", "run", "code/dump.py", "--image", "debian:bookworm-slim"]
    hidden = 'mount -t tmpfs none data && mkdir data/more && exec "$@" --train data/more'
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", hidden, "sh"]

    ended = subprocess.run([*unshare, *words], cwd=desk, capture_output=True, text=True, check=False)

    assert ended.returncode == 125, ended.stderr
    assert f"error: channel 'train': '{desk}/data/more' is on this machine, and the Docker daemon on another" in (
        ended.stderr
    )


STREAMS = """
import os, sys
for number in range(3):
    with open(f"{os.environ['SM_CHANNEL_TRAIN']}_{number}", "rb") as fifo:
        seen = fifo.read()
    print(number, len(seen), seen[:8], os.getuid())
os.listdir(os.environ["SM_INPUT_DATA_DIR"]) == ["train_3"] or sys.exit("what is left?")
"""


def test_channels_in_pipe_mode_reach_every_container(desk: Path, build: Callable[..., str]) -> None:
    script(desk, STREAMS, "code/train.py")
    (desk / "data" / "a.csv").write_bytes(gzip.compress(b"1,2\n"))
    (desk / "data" / "b").write_bytes(gzip.compress(bytes(3_000_000)))
    words = ("--train", "data", "--input-mode", "Pipe", "--compression", "Gzip", "--hosts", "2")

    # Neither its user nor its groups are those of this machine's files.
    result = run(desk, "code/train.py", *words, of=build(f"FROM {image()}\nUSER 1234\n"), umask=0o077)

    assert result.status == 0, result.log
    assert sorted(result.stdout.decode().splitlines()) == [
        f"[algo-{host}] {number} 3000004 {b'1,2' + bytes([10, 0, 0, 0, 0])!r} 1234"
        for host in (1, 2)
        for number in range(3)
    ]
    assert sorted(path.name for path in result.root.iterdir()) == [tree.MARKER, "algo-1", "algo-2", "model"]
    assert [path.name for path in (result.root / "algo-1").iterdir()] == ["output"]


def test_data_that_fails_ends_the_job_of_every_container(desk: Path) -> None:
    text = "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
    script(desk, f"import sys\n{text}{STREAMS.replace('print', 'sys.exit')}\ntime.sleep(600)", "code/train.py")
    (desk / "data" / "b").write_bytes(gzip.compress(bytes(9))[:-1])
    (desk / "data" / "a.csv").write_bytes(gzip.compress(b"1,2\n"))

    words = ("--train", "data", "--input-mode", "Pipe", "--compression", "Gzip", "--hosts", "2")
    result = run(desk, "code/train.py", *words)

    assert result.status == 1, result.log
    for host in ("algo-1", "algo-2"):
        output = result.root / host / "output"
        assert (
            (output / "failure").read_text().startswith(f"job: channel 'train', epoch 0: '{desk}/data/b' is no whole")
        )
        assert not (output / "success").exists()
    assert result.log.splitlines()[-1].startswith(f"tf-toolkit: failure: {result.root}/algo-1/output/failure: job: ")


@pytest.mark.parametrize(
    ("elsewhere", "said"),
    [
        # Linux has a word for programs that mind their kernel's version.
        (["setarch", "--uname-2.6"], "--input-mode Pipe: the Docker daemon is on another machine, or in a virtual one"),
        (
            [
                "unshare",
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                'mount -t tmpfs none out && exec "$@"',
                "sh",
            ],
            "the FIFOs of channels in Pipe mode: '{desk}/out/input/data' is on this machine, and the Docker daemon on",
        ),
    ],
)
def test_a_daemon_that_no_fifo_reaches_is_named(desk: Path, elsewhere: list[str], said: str) -> None:
    (desk / "out").mkdir()
    words = ["run", "code/dump.py", "--train", "data", "--input-mode", "Pipe", "--output", "out", "--image", image()]
    command = [*elsewhere, sys.executable, "-m", "tf_toolkit.local", *words]

    ended = subprocess.run(command, cwd=desk, capture_output=True, text=True, timeout=JOB_DEADLINE, check=False)

    assert ended.returncode == 125, ended.stderr
    assert f"error: {said.format(desk=desk)}" in ended.stderr
    assert not (desk / "out" / "input").exists()


def test_what_a_killed_client_leaves_is_removed_as_the_readme_says(desk: Path) -> None:
    script(desk, trap("$SM_CURRENT_HOST"), "code/train.py")
    commands = re.findall(r"^\$ (docker .*label=tf-toolkit\.run.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 3
    process = begin(desk, "code/train.py", "--hosts", "2")
    assert process.stdout is not None
    assert process.stdout.readline()

    process.kill()
    finish(process, desk)
    assert len(left()) == 4

    for command in commands:
        subprocess.run(["sh", "-c", command], check=True, timeout=DEADLINE)
    assert left() == []


def test_output_of_either_kind_of_run_is_replaced_by_the_other(desk: Path, build: Callable[..., str]) -> None:
    writes = build(SMALL, "echo 1 > /opt/ml/model/$(hostname)")
    process = start(desk, "run", "code/dump.py", "--hosts", "2", "--output", "out")
    assert finish(process, desk).status == 0

    assert run(desk, "code/dump.py", "--hosts", "2", of=writes).status == 0
    assert sorted(path.name for path in (desk / "out").iterdir()) == [tree.MARKER, "algo-1", "algo-2", "model"]
    assert run(desk, "code/dump.py", of=writes).status == 0
    assert sorted(path.name for path in (desk / "out").iterdir()) == [tree.MARKER, "model", "output"]
    assert [path.name for path in (desk / "out" / "model").iterdir()] == ["algo-1"]
