"""The program ``tf-toolkit``: words of the command line in, one line for each mistake out.

Exit status: of ``run``, its job's; of ``explain``, 0, or what ``train`` would end with for a job that is described
wrongly; of ``doctor``, 0, or 1 where a check failed; of ``transform``, 0, 1 where a file failed, or that of its server;
2 for a wrong command line; 1 for a file that the system denies; 125 for what Docker does not do; 128+N for signal N.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import tf_toolkit
from tf_toolkit.contract import SIGNAL_BASE, Paths
from tf_toolkit.errors import Stopped, ToolkitError
from tf_toolkit.local import hosts, image
from tf_toolkit.local.explain import explain_job, explain_tree
from tf_toolkit.local.job import COMPRESSIONS, INPUT_MODES, RUNS, Container, Job, UsageError, job
from tf_toolkit.local.run import run
from tf_toolkit.local.terminal import say
from tf_toolkit.local.transform import options as transform_options

_RUN = """\
Run a training job on this machine: the same `train` that a container runs on the platform, over a tree like /opt/ml
that is built for it. No container and no cloud account are needed. Nothing is copied: the script sees your code and
data through links.

With --image each host is a container of that image, on the Docker daemon that DOCKER_HOST names. Your code is copied
into it (but no .git, __pycache__, virtual environments, and folders that are channels), channels are mounted read-only,
requirements.txt is installed there, and of your environment nothing but --env goes in. At the end model and output are
copied out, and no container, network or volume is left.

The script runs in its source directory, with the Python that tf-toolkit is installed in. Its hyperparameters are its
arguments, and the words behind -- follow them; SM_MODEL_DIR, SM_CHANNEL_TRAIN and the other SM_* variables are set as
on the platform. Standard output is the script's; the log goes to standard error, and says at the end where model,
output and failure lie.
"""
_RUN_EXAMPLES = """\
examples:
  tf-toolkit run train.py --train data/train --hp epochs=3 --hp learning_rate=0.01
  tf-toolkit run train.py --source-dir src --channel train=data/train --channel test=data/test.csv --requirements
  tf-toolkit run train.py --output out -- --verbose
  tf-toolkit run train.py --hosts 2 --distribution mpi --processes-per-host 2
  tf-toolkit run train.py --train data/train --image tf-toolkit:cpu --memory 4g --cpus 2 --env WANDB_MODE=offline
  tf-toolkit run train.py --train data/tfrecords --input-mode Pipe --shuffle-seed 7

The exit status is the job's: 0 when it succeeded, else the script's own, 128+N when signal N killed it. Ctrl-C and TERM
are passed on to the script, on every host, which may save what it has. It is 125 when Docker cannot run the job.
"""
_EXPLAIN = """\
Print what a job comes down to: hosts, channels, strategy, command, arguments and variables. Nothing is started,
installed or fetched, and nothing is left on disk.

Without SCRIPT it explains the tree at --tree, SAGEMAKER_BASE_DIR or /opt/ml; with SCRIPT and the options of `run`, what
`run` would do, and with --hosts on the first of them. Variables are those that the toolkit sets or changes; values
behind names that look secret are masked.
"""
_EXPLAIN_JSON = """\
--json prints one object with these keys:
  root                    the tree
  hosts, current_host     names of all hosts, and of this one
  channels                name: folder; of a channel in Pipe mode what its FIFOs' names begin with
  pipe_mode               names of the channels in Pipe mode
  strategy                how the job is distributed; single: one process
  code                    directory: where it runs; fetched_from: what it is first copied, unpacked or downloaded from,
                          or null
  requirements            what becomes of requirements.txt: none (there is no such file), installed, not installed;
                          null if not known
  package                 the same of the source directory as a package with setup.py or pyproject.toml
  arguments               of the script
  processes               of this host, each with: role; command, with the arguments, or null if not known; directory;
                          variables, name: value; left_out, names of variables too large for the environment
  warnings                lines
What is not known is so because the code is not on this machine.
"""
_SERVE = """\
Answer for the models below a folder, as an endpoint does: /invocations, /ping and TensorFlow Serving's REST API, for
this machine alone. The README has the settings, which are environment variables. Control-C ends it.
"""
_SERVE_EXAMPLE = """\
tf-toolkit serve --model-dir tf-toolkit-runs/train/model
"""
# What it imports that is not always there.
_SERVING = ("httptools", "numpy", "orjson", "tensorflow", "uvicorn")
_DOCTOR = """\
Say whether this image and this machine are fit for training jobs: a line for each check, with what was found. Below a
warning or a failure stands what to do about it. Nothing is installed or left behind.

A warning is about what only some jobs need. Frameworks and Open MPI are tried out, which takes half a minute on a small
machine; what hangs is ended, and fails. The job's description, at SAGEMAKER_BASE_DIR or /opt/ml, is looked at where
there is one.
"""
_DOCTOR_JSON = """\
--json prints one list of objects with the keys check, state (pass, warn, fail), found, remedy (or null).

The exit status is 0 when nothing failed, else 1.
"""

# Of `run`, and of `explain` where it explains what that would do.
_RUN_OPTIONS = (
    "source_dir",
    "channels",
    "input_mode",
    "compression",
    "shuffle_seed",
    "hyperparameters",
    "requirements",
    "output",
    "hosts",
    "distribution",
    "processes_per_host",
)


def main() -> int:
    """Do what the command line says; the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    status = _status(sys.argv[1:])
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            # Nobody reads it any more. The interpreter flushes once more at its end, which must not change the status.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status


def _status(command_line: Sequence[str]) -> int:
    words, arguments = _split(command_line)
    try:
        given = _parser().parse_args(words)
        status: int = given.function(given, arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except ToolkitError as error:
        _say_error(str(error))
        return error.exit_code
    except BrokenPipeError:
        return SIGNAL_BASE + signal.SIGPIPE
    except OSError as error:
        _say_error(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
        return 1
    except Stopped as stop:
        return SIGNAL_BASE + stop.signal_number
    except KeyboardInterrupt:
        return SIGNAL_BASE + signal.SIGINT
    return status


def _say_error(message: str) -> None:
    say(f"error: {' '.join(message.split())}")


def _split(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Ours, and the script's own behind ``--``."""
    end = list(words).index("--") if "--" in words else len(words)
    return words[:end], words[end + 1 :]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help says what can be given")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tf-toolkit",
        description="Training jobs of the SageMaker container contract, on this machine.",
        epilog="tf-toolkit COMMAND --help tells more.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tf-toolkit {tf_toolkit.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    run_parser = _command(commands, "run", "run a training job on this machine", _RUN, _RUN_EXAMPLES)
    run_parser.add_argument("script", metavar="SCRIPT", help="the script that trains: a .py or .sh file, or a program")
    _add_options(run_parser)
    _add_image_options(run_parser)
    run_parser.set_defaults(function=_run)
    explain_parser = _command(commands, "explain", "print what a job comes down to", _EXPLAIN, _EXPLAIN_JSON)
    explain_parser.add_argument("script", metavar="SCRIPT", nargs="?", help="as of `run`")
    _add_options(explain_parser)
    explain_parser.add_argument("--tree", metavar="DIR", help="explain the tree at DIR, which is like /opt/ml")
    explain_parser.add_argument("--json", action="store_true", help="print one JSON object")
    explain_parser.set_defaults(function=_explain)
    serve_parser = _command(commands, "serve", "answer for the models in a folder", _SERVE, _SERVE_EXAMPLE)
    serve_parser.usage = "tf-toolkit serve --model-dir DIR [--port PORT]"
    serve_parser.add_argument("--model-dir", metavar="DIR", required=True, help="where models are, as in /opt/ml/model")
    serve_parser.add_argument("--port", metavar="PORT", type=int, default=8080, help="of this machine alone; 8080")
    serve_parser.set_defaults(function=_serve)
    transform_parser = _command(
        commands, "transform", "transform files by a model", transform_options.DESCRIPTION, transform_options.EXAMPLES
    )
    transform_parser.usage = "tf-toolkit transform --model-dir DIR --input PATH --output DIR [OPTION...]"
    transform_options.add_options(transform_parser)
    transform_parser.set_defaults(function=_transform)
    doctor_parser = _command(commands, "doctor", "say whether this image and machine are fit", _DOCTOR, _DOCTOR_JSON)
    doctor_parser.usage = "tf-toolkit doctor [--json]"
    doctor_parser.add_argument("--json", action="store_true", help="print one JSON list")
    doctor_parser.set_defaults(function=_doctor)
    return parser


def _command(
    commands: argparse._SubParsersAction[_Parser], name: str, summary: str, description: str, epilog: str
) -> _Parser:
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        usage=f"tf-toolkit {name} {'SCRIPT' if name == 'run' else '[SCRIPT]'} [OPTION...] [-- ARGUMENT...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source-dir",
        metavar="DIR",
        help="the folder of the code, which SCRIPT is relative to or lies in; default: the folder of SCRIPT",
    )
    parser.add_argument(
        "--train",
        metavar="PATH",
        dest="channels",
        action="append",
        type=lambda path: f"train={path}",
        help="data of the channel `train`, the same as --channel train=PATH",
    )
    parser.add_argument(
        "--channel",
        metavar="NAME=PATH",
        dest="channels",
        action="append",
        help="data: a folder or a file of this machine; the script finds it in the folder that SM_CHANNEL_<NAME> names",
    )
    parser.add_argument(
        "--input-mode",
        choices=INPUT_MODES,
        help="how all channels come: as folders, which is the default, or in Pipe mode through FIFOs, one for each "
        "pass over the files, of which the first is $SM_CHANNEL_<NAME>_0",
    )
    parser.add_argument(
        "--compression",
        choices=COMPRESSIONS,
        help="in Pipe mode: all files are gzip streams, and are unzipped before the FIFO",
    )
    parser.add_argument(
        "--shuffle-seed",
        metavar="N",
        type=int,
        help="in Pipe mode: each pass has the files in an order of its own, which is the same whenever N is; default: "
        "sorted by name",
    )
    parser.add_argument(
        "--hp",
        metavar="NAME=VALUE",
        dest="hyperparameters",
        action="append",
        help="a hyperparameter; as on the platform VALUE is text, and decoded if it reads as JSON: 3, true, '[1, 2]'",
    )
    parser.add_argument(
        "--requirements",
        action="store_true",
        help="install the requirements.txt beside the code into the environment of this Python first; without it "
        "nothing is installed; a container installs it always, as on the platform",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="where the tree is built, and model and output are left: a new or empty folder, or that of an earlier "
        f"run, whose input, model and output are replaced; default: a new folder in ./{RUNS}",
    )
    parser.add_argument(
        "--hosts",
        metavar="N",
        type=int,
        help="how many hosts the job has, all on this machine; default: 1",
    )
    parser.add_argument(
        "--distribution",
        choices=hosts.DISTRIBUTIONS,
        help="how they work together, as `distribution` of the SageMaker Python SDK; without it each runs the script "
        "for itself, and finds the others in SM_HOSTS",
    )
    parser.add_argument(
        "--processes-per-host",
        metavar="P",
        type=int,
        help="with --distribution mpi: how many ranks each host runs; default: one for each GPU, or one",
    )


def _add_image_options(parser: argparse.ArgumentParser) -> None:
    options = parser.add_argument_group("containers")
    options.add_argument(
        "--image", metavar="IMAGE", help="run each host in a container of this image, which has `train`"
    )
    options.add_argument("--gpus", metavar="N", help="how many GPUs each container has, or `all`; default: none")
    options.add_argument("--memory", metavar="SIZE", help="how much memory each may use, such as 512m or 2g")
    options.add_argument("--cpus", metavar="C", help="how many CPUs each may use, such as 2 or 1.5")
    options.add_argument(
        "--env",
        metavar="NAME[=VALUE]",
        action="append",
        help="a variable of the script's environment; without VALUE that which it has here",
    )


def _job(given: argparse.Namespace, arguments: Sequence[str], container: Container | None = None) -> Job:
    return job(
        script=given.script,
        source_dir=given.source_dir,
        channels=given.channels or [],
        hyperparameters=given.hyperparameters or [],
        output=given.output,
        requirements=given.requirements,
        arguments=arguments,
        hosts=given.hosts,
        distribution=given.distribution,
        processes_per_host=given.processes_per_host,
        container=container,
        input_mode=given.input_mode,
        compression=given.compression,
        shuffle_seed=given.shuffle_seed,
    )


def _run(given: argparse.Namespace, arguments: Sequence[str]) -> int:
    container = image.container(
        given.image, given.gpus, given.memory, given.cpus, given.env, environ=os.environ, arguments=arguments
    )
    return run(_job(given, arguments, container), os.environ)


def _explain(given: argparse.Namespace, arguments: Sequence[str]) -> int:
    if given.script is not None:
        if given.tree is not None:
            raise UsageError("SCRIPT and --tree are two jobs; give one of them")
        explain_job(_job(given, arguments), os.environ, given.json)
        return 0
    if any(getattr(given, option) not in (None, False) for option in _RUN_OPTIONS):
        raise UsageError("the options of `run`, such as --train and --output, need SCRIPT")
    tree = Paths.of(os.environ) if given.tree is None else Paths(Path(given.tree).absolute())
    if given.tree is not None and not tree.root.is_dir():
        raise UsageError(f"--tree {given.tree!r}: no such directory; give one that is like /opt/ml")
    explain_tree(tree, os.environ, arguments, given.json)
    return 0


def _serve(given: argparse.Namespace, arguments: Sequence[str]) -> int:
    if arguments:
        raise UsageError("`serve` takes no arguments behind --")
    if not 0 < given.port < 65536:
        raise UsageError(f"--port {given.port}: a port is a number from 1 to 65535")
    missing = [name for name in _SERVING if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"`serve` needs {', '.join(missing)}: pip install 'tf-toolkit[serving]', and TensorFlow")
    from tf_toolkit.serving.serve import serve_folder

    serve_folder(Path(given.model_dir), given.port)


def _transform(given: argparse.Namespace, arguments: Sequence[str]) -> int:
    if arguments:
        raise UsageError("`transform` takes no arguments behind --")
    # Only who asks for it pays for what it takes.
    from tf_toolkit.local.transform.run import transform

    return transform(transform_options.read(given), os.environ)


def _doctor(given: argparse.Namespace, arguments: Sequence[str]) -> int:
    if arguments:
        raise UsageError("doctor runs no script, so nothing can follow --")
    # Only who asks for it pays for what it takes.
    from tf_toolkit.local.doctor import doctor

    return doctor(os.environ, given.json)
