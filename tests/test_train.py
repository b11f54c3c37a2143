"""`train` as the platform and its user see it: files, exit codes, bytes, environment and arguments."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from conftest import AWS_ENVIRON, DEADLINE, Job, wait_until
from test_hardware import is_running, real_cgroup

HOSTILE = {
    "spaces": "a  b ",
    "quotes": 'it\'s "quoted"',
    "newline": "line 1\nline 2",
    "tab": "a\tb",
    "shell": "$(touch pwned) `touch pwned` ; touch pwned | & > pwned < $HOME * ? [a] {b} ~ ! #",
    "backslash": "\\n \\",
    "unicode": "名前 é 🚀",
    "dashes": "--not-an-option",
    "percent": "%s %(x)s {x}",
    "blank": "",
}


def hostile_arguments() -> list[str]:
    return [item for name in sorted(HOSTILE) for item in (f"--{name}", HOSTILE[name])]


def test_a_script_and_nothing_else(job: Job) -> None:
    """Plain `docker run IMAGE train` with a script mounted at /opt/ml/code."""
    shutil.rmtree(job.root / "input")
    job.code("train.py", "print('trained')")
    result = job.train()
    assert (result.status, result.stdout) == (0, b"trained\n")
    assert (job.root / "output" / "success").read_bytes() == b""
    assert not (job.root / "output" / "failure").exists()
    assert (job.root / "model").is_dir()
    assert (job.root / "output" / "data").is_dir()


def test_the_script_gets_every_argument_and_variable_unchanged(job: Job) -> None:
    job.program("dump.py")
    job.hyperparameters(sagemaker_program='"dump.py"', **{name: json.dumps(value) for name, value in HOSTILE.items()})
    seen = job.train().seen
    assert seen["argv"] == hostile_arguments()
    assert {name: seen["env"][f"SM_HP_{name.upper()}"] for name in HOSTILE} == HOSTILE
    assert json.loads(seen["env"]["SM_USER_ARGS"]) == hostile_arguments()
    assert json.loads(seen["env"]["SM_HPS"]) == HOSTILE
    assert seen["cwd"] == str(job.root / "code")
    assert [path.name for path in (job.root / "code").iterdir()] == ["dump.py"]


def test_a_shell_script_gets_every_argument_unchanged(job: Job) -> None:
    job.code("train.sh", 'for a in "$@"; do printf "%s\\0" "$a"; done')
    job.hyperparameters(sagemaker_program='"train.sh"', **{name: json.dumps(value) for name, value in HOSTILE.items()})
    result = job.train()
    assert result.stdout.decode().split("\0")[:-1] == hostile_arguments()
    assert [path.name for path in (job.root / "code").iterdir()] == ["train.sh"]


def test_arguments_of_train_follow_the_hyperparameters(job: Job) -> None:
    job.program("dump.py")
    job.hyperparameters(sagemaker_program='"dump.py"', lr="0.1")
    command = [sys.executable, "-m", "tf_toolkit.train", "--flag", "a b"]
    subprocess.run(command, env=job.environ, check=True, capture_output=True, timeout=DEADLINE)
    seen = json.loads((job.root / "model" / "seen.json").read_text())
    assert seen["argv"] == ["--lr", "0.1", "--flag", "a b"]


def test_a_hundred_large_hyperparameters(job: Job) -> None:
    """The platform allows 100 of 2,500 characters; one variable can hold 128 KiB, so some cannot hold them all."""
    values = {f"name{number:03}": f"{number:03}" + "x" * 2497 for number in range(100)}
    job.program("dump.py")
    job.hyperparameters(sagemaker_program='"dump.py"', **values)
    # Read while the job runs: the file is gone when it ends.
    job.code("wrap.py", "import os, shutil; shutil.copy(os.environ['SM_LEFT_OUT_FILE'], 'left.json'); import dump")
    job.environ["SAGEMAKER_PROGRAM"] = "wrap.py"
    result = job.train()
    assert result.status == 0
    seen = result.seen
    assert seen["argv"] == [item for name in sorted(values) for item in (f"--{name}", values[name])]
    assert all(seen["env"][f"SM_HP_{name.upper()}"] == value for name, value in values.items())
    left_out = json.loads((job.root / "code" / "left.json").read_text())
    assert sorted(left_out) == ["SM_HPS", "SM_TRAINING_ENV", "SM_USER_ARGS"]
    assert json.loads(left_out["SM_HPS"]) == values
    assert result.log.count("left out of it") == 1
    assert not Path(seen["env"]["SM_LEFT_OUT_FILE"]).exists()


def test_python_path_has_no_library_of_the_launcher(job: Job) -> None:
    job.program("dump.py")
    job.environ["SAGEMAKER_PROGRAM"] = "dump.py"
    job.environ["PYTHONPATH"] = "/some/where"
    assert job.train().seen["env"]["PYTHONPATH"] == f"{job.root}/code:/some/where"


def test_output_appears_as_it_is_printed(job: Job) -> None:
    job.code("train.py", "print('first')\nimport time\ntime.sleep(600)")
    process = job.start()
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"
    process.send_signal(signal.SIGTERM)
    job.finish(process)


@pytest.mark.parametrize(
    ("code", "status", "headline"),
    [
        (
            "def fit(lr):\n    raise ValueError(f'bad learning rate {lr}')\nfit(3)",
            1,
            r"user code: ValueError: bad learning rate 3 \(train.py, line 2, in fit\); exit status 1",
        ),
        ("import sys; sys.exit('dataset is empty')", 1, "user code: dataset is empty; exit status 1"),
        ("import sys; print('no GPU', file=sys.stderr); sys.exit(3)", 3, "user code: no GPU; exit status 3"),
        ("raise SystemExit(200)", 200, "user code: exit status 200"),
        ("import os; os._exit(255)", 255, r"user code: exit status 255"),
        ("import os, signal; os.kill(os.getpid(), 9)", 137, r"user code: killed by SIGKILL \(exit status 137\)"),
        ("import faulthandler, ctypes; faulthandler.enable(); ctypes.string_at(0)", 139, "Segmentation fault.*SIGSEGV"),
        ("import not_installed_pkg", 1, "ModuleNotFoundError: No module named 'not_installed_pkg'"),
        ("def f(:\n  pass", 1, r"SyntaxError: invalid syntax \(train.py, line 1\)"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt.*SIGINT"),
        (
            "class ShardError(Exception): pass\nraise ShardError('shard 17')",
            1,
            r"ShardError: shard 17 \(train.py, line 2",
        ),
        ("print('RuntimeError count: 0')\nraise OSError('real')", 1, "user code: OSError: real"),
        ("raise ValueError('学習率')", 1, "ValueError: 学習率"),
        ("import sys; sys.stderr.buffer.write(b'\\xff\\xfe\\n'); raise ValueError('after')", 1, "ValueError: after"),
    ],
)
def test_how_a_script_fails(job: Job, code: str, status: int, headline: str) -> None:
    job.code("train.py", code)
    result = job.train()
    assert result.status == status
    assert not result.succeeded
    first, *rest = result.headline.splitlines()
    assert re.search(headline, first), result.headline
    assert rest[:2] == ["ExecuteUserScriptError:", f"ExitCode {status}"]
    assert rest[2].startswith('ErrorMessage "')
    assert rest[3].startswith('Command "')
    assert first in result.log


def test_a_failure_behind_a_long_shutdown(job: Job) -> None:
    shutdown = "import atexit, sys\natexit.register(lambda: sys.stderr.write('closing down\\n' * 50000))\n"
    job.code("train.py", shutdown + "raise ValueError('the cause')")
    headline = job.train().headline
    assert headline.startswith("user code: ValueError: the cause")
    assert "(train.py, line 3)" in headline


def test_all_that_matters_is_in_the_first_1024_bytes(job: Job) -> None:
    job.code("train.py", f"raise ValueError('long ' * 5000)\n# {'x' * 300}")
    job.hyperparameters(**{f"name{number}": "v" * 200 for number in range(50)})
    headline = job.train().headline
    assert headline.startswith("user code: ValueError: long long")
    for word in ("train.py, line 1", "ExecuteUserScriptError:", "ExitCode 1", 'ErrorMessage "', 'Command "'):
        assert word in headline


def test_a_failure_file_of_the_scripts_own_is_kept(job: Job) -> None:
    job.code(
        "train.py", "import os\nopen(os.environ['SM_OUTPUT_FAILURE'], 'w').write('my reason')\nraise SystemExit(4)"
    )
    result = job.train()
    assert (result.status, result.failure) == (4, "my reason")


def test_results_of_an_earlier_run_are_not_taken_for_this_one(job: Job) -> None:
    (job.root / "output").mkdir()
    (job.root / "output" / "success").touch()
    (job.root / "output" / "failure").write_text("old")
    job.code("train.py", "raise SystemExit(5)")
    result = job.train()
    assert not result.succeeded
    assert "exit status 5" in result.failure
    job.code("train.py", "")
    result = job.train()
    assert result.succeeded
    assert not (job.root / "output" / "failure").exists()


@pytest.mark.parametrize("name", ["hyperparameters", "resourceconfig", "inputdataconfig"])
def test_a_broken_configuration_file_ends_the_job_with_one_line(job: Job, name: str) -> None:
    job.code("train.py", "print('ran')")
    job.config(name, '{"a": ')
    result = job.train()
    assert (result.status, result.stdout) == (78, b"")
    assert result.headline.startswith(f"job: {job.root}/input/config/{name}.json: not JSON:")
    assert "JobDescriptionError" in result.headline
    assert "Traceback" not in result.log + result.failure


def test_no_code_at_all(job: Job) -> None:
    result = job.train()
    assert result.status == 78
    assert "sagemaker_submit_directory" in result.headline
    assert str(job.root / "code") in result.headline


def test_an_argument_that_no_process_can_take(job: Job) -> None:
    job.program("dump.py")
    job.hyperparameters(sagemaker_program='"dump.py"', weights="x" * 200_000)
    result = job.train()
    assert result.status == 78
    assert "--weights" in result.headline


CHECKPOINTING = """
import os, signal, sys, time
def stop(*_):
    open(os.path.join(os.environ["SM_MODEL_DIR"], "checkpoint"), "w").write("saved")
    sys.exit({status})
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""


def started(job: Job, **options: Any) -> subprocess.Popen[bytes]:
    process = job.start(**options)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_a_stop_lets_the_script_save_and_is_no_fault_of_it(job: Job) -> None:
    job.code("train.py", CHECKPOINTING.format(status=143))
    process = started(job)
    process.send_signal(signal.SIGTERM)
    result = job.finish(process)
    assert result.status == 143
    assert (job.root / "model" / "checkpoint").read_text() == "saved"
    assert result.headline.startswith("stopped: SIGTERM asked the job to end; the script ended: exit status 143")
    assert "ExecuteUserScriptError" not in result.failure
    assert not result.succeeded


def test_a_script_that_ends_well_when_stopped_has_succeeded(job: Job) -> None:
    job.code("train.py", CHECKPOINTING.format(status=0))
    process = started(job)
    process.send_signal(signal.SIGTERM)
    result = job.finish(process)
    assert (result.status, result.succeeded) == (0, True)


def test_a_script_that_does_not_stop_is_killed_after_the_grace(job: Job) -> None:
    job.code(
        "train.py",
        "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(600)",
    )
    job.environ["TF_TOOLKIT_STOP_GRACE"] = "0.5"
    process = started(job)
    process.send_signal(signal.SIGTERM)
    result = job.finish(process)
    assert result.status == 137
    assert result.headline.startswith("stopped: SIGTERM asked the job to end; the script")
    assert "still running after the grace" in result.headline


@pytest.mark.parametrize("grace", ["soon", "-1", "99999999999999", "1.2.3", "inf"])
def test_the_grace_must_be_a_number(job: Job, grace: str) -> None:
    job.code("train.py", "")
    job.environ["TF_TOOLKIT_STOP_GRACE"] = grace
    result = job.train()
    assert result.status == 78
    assert f"TF_TOOLKIT_STOP_GRACE is '{grace}'" in result.headline


def test_an_interrupt_is_never_success(job: Job) -> None:
    job.code("train.py", "import time\nprint('ready', flush=True)\nwhile True: time.sleep(0.1)")
    process = started(job)
    process.send_signal(signal.SIGINT)
    result = job.finish(process)
    assert result.status == 130
    assert result.headline.startswith("stopped: SIGINT")


def test_a_stop_before_the_script_starts(job: Job, tmp_path: Path) -> None:
    """A device tool that hangs holds the start; TERM ends the job at once all the same."""
    tools, mark = tmp_path / "bin", tmp_path / "mark"
    tools.mkdir()
    (tools / "nvidia-smi").write_text(f"#!/bin/sh\necho $$ >{mark}\nexec sleep 600\n")
    (tools / "nvidia-smi").chmod(0o755)
    job.code("train.py", "print('ran')")
    job.environ["PATH"] = f"{tools}:{job.environ['PATH']}"
    process = job.start()
    tool = int(wait_until(lambda: mark.exists() and mark.read_text(), "the device tool runs"))
    process.send_signal(signal.SIGTERM)
    result = job.finish(process)
    assert (result.status, result.stdout) == (143, b"")
    assert result.headline.startswith("stopped: SIGTERM asked the job to end before the script was started")
    wait_until(lambda: not is_running(tool), "the device tool is gone")


def test_as_process_1(job: Job) -> None:
    """In a PID namespace of its own TERM is obeyed, although the kernel shields PID 1, and orphans are reaped."""
    orphans = "import subprocess\nfor _ in range(20): subprocess.run(['sh', '-c', 'sleep 600 &'])\n"
    job.code("train.py", orphans + CHECKPOINTING.format(status=143))
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-m", "tf_toolkit.train"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(unshare, env=job.environ, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == b"ready\n"
        [inner] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(inner), signal.SIGTERM)
        job.finish(process)
    assert process.returncode == 143
    assert (job.root / "model" / "checkpoint").exists()


def test_out_of_memory_is_named_with_peak_and_limit(job: Job) -> None:
    job.code("train.py", "kept = []\nwhile True: kept.append(bytearray(b'x' * (1 << 20)))")
    limit = str(100 << 20)
    files = {"memory.limit_in_bytes": limit, "memory.max": limit, "memory.memsw.limit_in_bytes": limit}
    with real_cgroup("memory", files) as [procs]:
        shell = ["sh", "-c", 'echo 0 > "$0" && exec "$@"', str(procs), sys.executable, "-m", "tf_toolkit.train"]
        process = subprocess.Popen(shell, env=job.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        result = job.finish(process)
    assert result.status == 137
    assert re.match(
        r"user code: out of memory: the kernel killed 1 process.*; peak 100 MiB, limit 100 MiB; killed by SIGKILL",
        result.headline,
    )
    assert 'ExtraInfo "OutOfMemory' in result.headline


@contextlib.contextmanager
def small_disk(where: Path) -> Iterator[Path]:
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


def test_a_full_disk_is_never_a_success(job: Job) -> None:
    job.program("fill_disk.py")
    with small_disk(job.root / "output"):
        result = job.train()
        assert result.status == 74
        assert not result.succeeded
        assert "No space left on device" in result.log


def test_an_output_that_cannot_be_written_is_said_at_the_start(job: Job) -> None:
    (job.root / "output").write_text("a file")
    job.code("train.py", "print('ran')")
    result = job.train()
    assert (result.status, result.stdout) == (74, b"")
    assert str(job.root / "output") in result.log
    assert "Traceback" not in result.log


def test_an_output_that_only_another_user_may_write_is_said_at_the_start(job: Job) -> None:
    (job.root / "output").mkdir(mode=0o755)
    job.code("train.py", "print('ran')")
    os.chown(job.root / "output", 12345, 12345)
    # Root without its capabilities is a user like any other.
    unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    process = subprocess.Popen(
        [*unprivileged, sys.executable, "-m", "tf_toolkit.train"], env=job.environ, stdout=subprocess.PIPE
    )
    result = job.finish(process)
    assert (result.status, result.stdout) == (74, b"")


def test_a_script_that_removes_the_output_directory(job: Job) -> None:
    job.code("train.py", "import os, shutil\nshutil.rmtree(os.environ['SM_OUTPUT_DIR'])")
    result = job.train()
    assert (result.status, result.succeeded) == (0, True)


@pytest.mark.parametrize("level", [10, 20])
def test_no_secret_is_printed(job: Job, level: int) -> None:
    """Not in the log, not in the failure file: of hyperparameters, of variables, and of what a tool says."""
    job.code(
        "train.py",
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--password', type=int)\np.parse_known_args()",
    )
    job.hyperparameters(
        password="hunter2-'SECRET",
        config='{"api_key": "nested-SECRET"}',
        url='"https://me:url-SECRET@example.org/"',
        sagemaker_container_log_level=level,
    )
    job.environ["MY_TOKEN"] = "variable-SECRET"
    result = job.train()
    assert result.status == 2
    assert "--password" in result.failure
    ours = "".join(line for line in result.log.splitlines(keepends=True) if "train.py: error" not in line)
    assert "SECRET" not in ours
    assert "SECRET" not in result.failure


def test_a_quiet_job_logs_nothing_of_its_own(job: Job) -> None:
    job.code("train.py", "import sys; sys.stderr.write('mine')")
    job.hyperparameters(sagemaker_container_log_level=40)
    assert job.train().stderr == b"mine"


def test_one_line_a_stage_with_its_duration(job: Job) -> None:
    job.code("train.py", "import sys; sys.stderr.write('no newline')")
    lines = job.train().log.splitlines()
    for name in ("read", "describe", "install", "decide", "run"):
        assert len([line for line in lines if re.search(rf" INFO +{name}: .*\(\d+\.\d+ s\)$", line)]) == 1, lines


@pytest.mark.parametrize(
    ("save", "words"),
    [
        ("", "is empty: no model was saved"),
        ("open(m + '/weights.h5', 'w')", "holds no SavedModel"),
        ("os.makedirs(m + '/export'); open(m + '/export/saved_model.pb', 'w')", "not under a version number"),
        ("os.makedirs(m + '/1'); open(m + '/1/saved_model.pb', 'w')", None),
    ],
)
def test_a_model_that_cannot_be_served_is_said(job: Job, save: str, words: str | None) -> None:
    job.code("train.py", f"import os\nm = os.environ['SM_MODEL_DIR']\n{save}")
    result = job.train()
    assert result.status == 0
    warnings = [line for line in result.log.splitlines() if "WARNING" in line]
    assert [words in line for line in warnings] == ([True] if words else [])  # type: ignore[operator]


def test_the_training_module_of_another_image(job: Job) -> None:
    """SAGEMAKER_TRAINING_MODULE runs as the user's script would: variables, arguments, supervision, report."""
    job.program("theirs.py")
    job.hyperparameters(lr="0.1")
    job.environ["SAGEMAKER_TRAINING_MODULE"] = "theirs:run"
    result = job.train()
    assert json.loads(result.stdout) == [["--lr", "0.1"], "theirs:run"]
    assert result.status == 1
    assert result.headline.startswith("user code: ValueError: theirs (theirs.py, line 10, in run)")


def test_the_tensorflow_training_module_is_this_toolkit(job: Job) -> None:
    job.code("train.py", "print('ran')")
    job.environ["SAGEMAKER_TRAINING_MODULE"] = "sagemaker_tensorflow_container.training:main"
    assert job.train().stdout == b"ran\n"


def test_a_library_that_is_gone_is_refused(job: Job) -> None:
    flag = "sagemaker_distributed_dataparallel_enabled"
    job.code("train.py", "print('ran')")
    job.hyperparameters(**{flag: True})
    result = job.train()
    assert (result.status, result.stdout) == (78, b"")
    assert flag in result.headline


def test_the_region_of_the_model_dir_bucket(job: Job, s3_url: str) -> None:
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing-secret-value"}
    europe = boto3.client("s3", endpoint_url=s3_url, region_name="eu-west-1", **keys)
    europe.create_bucket(Bucket="models-eu", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    job.program("dump.py")
    job.hyperparameters(sagemaker_program='"dump.py"', model_dir='"s3://models-eu/x"')
    job.environ |= {**AWS_ENVIRON, "S3_ENDPOINT_URL": s3_url}
    assert job.train().seen["env"]["S3_REGION"] == "eu-west-1"
    job.hyperparameters(sagemaker_program='"dump.py"', model_dir='"s3://no-such-bucket/x"')
    result = job.train()
    assert result.seen["env"]["S3_REGION"] == "us-west-2"
    assert "S3_REGION is the job's" in result.log


def test_intermediate_output_is_there_before_the_job_reports(job: Job, s3: Any, s3_url: str) -> None:
    s3.create_bucket(Bucket="intermediate", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    job.program("rename_into_place.py")
    job.hyperparameters(sagemaker_s3_output='"s3://intermediate/out"')
    job.environ |= {**AWS_ENVIRON, "S3_ENDPOINT_URL": s3_url, "TRAINING_JOB_NAME": "job-1"}
    result = job.train()
    assert result.status == 0, result.log
    stored = s3.get_object(Bucket="intermediate", Key="out/job-1/output/intermediate/last")
    assert stored["Body"].read() == b"whole"


def test_no_process_of_the_job_is_left(job: Job) -> None:
    """After a normal end no process of the job is left, wherever it hid."""
    job.code("train.py", "import subprocess\np = subprocess.Popen(['setsid', 'sleep', '600'])\nprint(p.pid)")
    result = job.train()
    assert not is_running(int(result.stdout))


def test_each_device_tool_runs_once(job: Job, tmp_path: Path) -> None:
    tools, calls = tmp_path / "bin", tmp_path / "calls"
    tools.mkdir()
    for name in ("nvidia-smi", "neuron-ls"):
        (tools / name).write_text(f"#!/bin/sh\necho {name} >>{calls}\n")
        (tools / name).chmod(0o755)
    job.code("train.py", "")
    job.environ["PATH"] = f"{tools}:{job.environ['PATH']}"
    assert job.train().status == 0
    assert sorted(calls.read_text().split()) == ["neuron-ls", "nvidia-smi"]


def test_another_python_runs_in_a_shell_script(job: Job) -> None:
    """The incumbent hands on its own library path, which breaks every other Python."""
    job.code("train.sh", "/usr/bin/python3 -c 'import re, json, sqlite3; print(re.compile(\"a+\").pattern)'")
    assert job.train().stdout == b"a+\n"


def test_python_adds_nothing_to_the_code_directory(job: Job) -> None:
    """It may be the user's own, mounted into a container whose root would own what is added."""
    job.code("helper.py", "")
    job.code(
        "train.py", "import helper, subprocess, sys\nsubprocess.check_call([sys.executable, '-c', 'import train2'])"
    )
    job.code("train2.py", "import helper")
    job.environ["SAGEMAKER_PROGRAM"] = "train.py"
    assert job.train().status == 0
    assert sorted(path.name for path in (job.root / "code").iterdir()) == ["helper.py", "train.py", "train2.py"]


def test_no_temporary_file_is_left(job: Job, tmp_path: Path) -> None:
    job.environ["TMPDIR"] = str(tmp_path / "tmp")
    (tmp_path / "tmp").mkdir()
    archive = shutil.make_archive(str(tmp_path / "source"), "gztar", Path(__file__).parent / "programs", "dump.py")
    job.hyperparameters(
        sagemaker_program='"dump.py"', sagemaker_submit_directory=json.dumps(archive), big="x" * 100_000
    )
    assert job.train().status == 0
    job.hyperparameters(sagemaker_program='"dump.py"', sagemaker_submit_directory='"s3://b/k.tar.gz"')
    assert job.train().status == 66
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_streams(job: Job, closed: str) -> None:
    job.code("train.py", "import os; open(os.environ['SM_MODEL_DIR'] + '/ran', 'w').close()")
    shell = f"exec {shlex.join([sys.executable, '-m', 'tf_toolkit.train'])} {closed}"
    result = job.finish(subprocess.Popen(["sh", "-c", shell], env=job.environ))
    assert (result.status, result.succeeded) == (0, True)
    assert (job.root / "model" / "ran").exists()
