"""Every name shared with the platform: paths, file names, hyperparameter keys, variables, exit codes.

Source: the Amazon SageMaker developer guide, "How Amazon SageMaker Runs Your Training Image"
(https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

BASE_DIR = "/opt/ml"


class Paths(NamedTuple):
    """The tree that the platform mounts; nothing is created by naming it."""

    root: Path

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Paths:
        """The tree at ``SAGEMAKER_BASE_DIR``, or ``/opt/ml``."""
        return cls(Path(environ.get("SAGEMAKER_BASE_DIR") or BASE_DIR))

    @property
    def input(self) -> Path:
        return self.root / "input"

    @property
    def input_config(self) -> Path:
        return self.root / "input" / "config"

    @property
    def input_data(self) -> Path:
        return self.root / "input" / "data"

    @property
    def code(self) -> Path:
        return self.root / "code"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def output_data(self) -> Path:
        return self.root / "output" / "data"

    @property
    def intermediate(self) -> Path:
        return self.root / "output" / "intermediate"

    @property
    def success(self) -> Path:
        return self.root / "output" / "success"

    @property
    def failure(self) -> Path:
        return self.root / "output" / "failure"

    @property
    def pipe_state(self) -> Path:
        """Where readers of channels in Pipe mode keep the number of the next pass."""
        return self.root / "pipe_state"

    @property
    def starting(self) -> Path:
        """A FIFO, where `tf-toolkit run` draws on the terminal: see train.py's way to start the script."""
        return self.root / ".tf-toolkit-starting"


# Of the lines that our own programs write to standard error.
LOG_FORMAT = "%(asctime)s tf-toolkit %(levelname)-7s %(message)s"

HYPERPARAMETERS_FILE = "hyperparameters.json"
RESOURCE_CONFIG_FILE = "resourceconfig.json"
INPUT_DATA_CONFIG_FILE = "inputdataconfig.json"
# Of a channel in that file: File or Pipe.
INPUT_MODE = "TrainingInputMode"

# Hyperparameters that steer the toolkit and never reach the script.
PROGRAM = "sagemaker_program"
SUBMIT_DIRECTORY = "sagemaker_submit_directory"
# What an entry point may be called: nothing that a program could read as an option.
PROGRAM_PATTERN = r"(?!-)[A-Za-z0-9._+/-]+"
LOG_LEVEL = "sagemaker_container_log_level"
JOB_NAME = "sagemaker_job_name"
REGION = "sagemaker_region"
S3_OUTPUT = "sagemaker_s3_output"
TUNING_OBJECTIVE_METRIC = "_tuning_objective_metric"
RESERVED = frozenset(
    {
        PROGRAM,
        SUBMIT_DIRECTORY,
        "sagemaker_enable_cloudwatch_metrics",
        REGION,
        LOG_LEVEL,
        JOB_NAME,
        "default_user_module_name",
        TUNING_OBJECTIVE_METRIC,
        S3_OUTPUT,
    }
)
# Any other hyperparameter whose name begins so is the framework's, and reaches the script only in SM_FRAMEWORK_PARAMS.
FRAMEWORK_PREFIX = "sagemaker_"
PARAMETER_SERVER_ENABLED = "sagemaker_parameter_server_enabled"
MULTI_WORKER_MIRRORED_ENABLED = "sagemaker_multi_worker_mirrored_strategy_enabled"
MPI_ENABLED = "sagemaker_mpi_enabled"
DATA_PARALLEL_ENABLED = "sagemaker_distributed_dataparallel_enabled"
MPI_PROCESSES_PER_HOST = "sagemaker_mpi_num_of_processes_per_host"
MPI_PROCESSES = "sagemaker_mpi_num_processes"
MPI_OPTIONS = "sagemaker_mpi_custom_mpi_options"
# Ours: "estimator" or "coordinator"; without it the installed TensorFlow decides.
PARAMETER_SERVER_MODE = "sagemaker_parameter_server_mode"
DISTRIBUTION_INSTANCE_GROUPS = "sagemaker_distribution_instance_groups"
# Each makes the current instance group count as distributed when no groups are named.
DISTRIBUTION_FLAGS = (
    MPI_ENABLED,
    PARAMETER_SERVER_ENABLED,
    DATA_PARALLEL_ENABLED,
    MULTI_WORKER_MIRRORED_ENABLED,
    "sagemaker_pytorch_ddp_enabled",
    "sagemaker_pytorch_xla_multi_worker_enabled",
    "sagemaker_torch_distributed_enabled",
)
# Ours: true or false turns oneDNN (once called MKL-DNN) on or off.
MKL_ENABLED = "sagemaker_mkl_enabled"
# The tuner's special case of a user hyperparameter.
MODEL_DIR = "model_dir"

# The value of SAGEMAKER_TRAINING_MODULE that names the TensorFlow training toolkit's own start: here, ours.
TENSORFLOW_TRAINING_MODULE = "sagemaker_tensorflow_container.training:main"

# Variables that the toolkit obeys besides the platform's own.
STOP_GRACE = "TF_TOOLKIT_STOP_GRACE"
REQUIREMENTS = "TF_TOOLKIT_REQUIREMENTS"
LEFT_OUT_FILE = "SM_LEFT_OUT_FILE"
CLUSTER_KEY = "TF_TOOLKIT_CLUSTER_KEY"
CLUSTER_WAIT = "TF_TOOLKIT_CLUSTER_WAIT"
# Set by `tf-toolkit run`, whose hosts share one machine: the first of four ports for each of them.
LOCAL_PORTS = "TF_TOOLKIT_LOCAL_PORTS"
# Where a launcher listens to the processes that Open MPI starts for it.
DOOR = "TF_TOOLKIT_DOOR"

# The platform sends KILL 120 s after TERM; what is left after this grace is for the report.
STOP_GRACE_SECONDS = 110.0
# Hosts may start minutes apart; one that has not come by then never will.
CLUSTER_WAIT_SECONDS = 900.0
# When one host fails, the processes of all get TERM, and after this KILL.
FAILURE_GRACE_SECONDS = 10.0
# Port that the SDK's newer drivers name in SM_MASTER_PORT.
MASTER_PORT = 7777
# Ports of TensorFlow's servers, as every toolkit of the contract writes them into TF_CONFIG.
TASK_PORT = 2222
PARAMETER_SERVER_PORT = 2223
MULTI_WORKER_PORT = 8890
# Port of the first host's launcher, where the others' join.
CLUSTER_PORT = 7733
_LOCAL_PORTS = {TASK_PORT: 0, PARAMETER_SERVER_PORT: 1, MULTI_WORKER_PORT: 2, CLUSTER_PORT: 3}


def port(environ: Mapping[str, str], host: int, number: int) -> int:
    """A port of the contract for the host with this number; another one where hosts share a machine.

    TensorFlow's servers listen on all addresses of a machine, whatever address they are told.
    """
    base = environ.get(LOCAL_PORTS)
    return number if not base else int(base) + len(_LOCAL_PORTS) * host + _LOCAL_PORTS[number]


# Exit codes. A script's own status is passed on; death by signal N is 128+N. Ours follow <sysexits.h>.
SUCCEEDED = 0
SOURCE_UNAVAILABLE = 66
CLUSTER_FAILED = 68
INSTALL_FAILED = 69
TOOLKIT_FAULT = 70
RESULT_NOT_WRITTEN = 74
JOB_DESCRIPTION_WRONG = 78
NOT_EXECUTABLE = 126
SIGNAL_BASE = 128
