"""oneDNN (once MKL-DNN) and thread-count variables: TensorFlow's own defaults, for the CPUs that a process really has.

TensorFlow sizes its pools by the CPUs it sees, and sees neither a cgroup's quota nor that processes share a host.
What it reads: https://github.com/tensorflow/tensorflow/blob/v2.15.1/tensorflow/core/common_runtime/process_util.cc
and .../tensorflow/core/util/port.cc.
"""

from __future__ import annotations

from collections.abc import Mapping

from tf_toolkit import contract
from tf_toolkit.config import JobConfig

# The SageMaker CPU images' settings for Intel's OpenMP library. The wheels on PyPI, 2.15 and 2.21, are built without
# OpenMP; these matter to TensorFlow builds that have it, and to the user's other libraries.
_KMP = {"KMP_BLOCKTIME": "1", "KMP_SETTINGS": "0"}
_KMP_AFFINITY = "granularity=fine,compact,1,0"


def variables(config: JobConfig, cpus: int, processes: int, environ: Mapping[str, str]) -> dict[str, str]:
    """oneDNN/MKL and thread-count variables for one of ``processes`` processes on this host.

    What stands in ``environ`` wins, and is left out.
    """
    if contract.LOCAL_PORTS in environ:
        # The job's hosts share this machine.
        processes *= len(config.hosts)
    threads = max(1, cpus // processes)
    chosen = {
        **_KMP,
        "OMP_NUM_THREADS": str(threads),
        # Not the user's OMP_NUM_THREADS: that is set to 1 to quiet NumPy, and TensorFlow takes no notice of it.
        "TF_NUM_INTRAOP_THREADS": str(threads),
        # As many, for that is TensorFlow's default. Two at least, its own minimum in OpenMP builds: an operation that
        # waits must not hold up all others.
        "TF_NUM_INTEROP_THREADS": str(max(2, threads)),
        **_onednn(config, environ),
    }
    if processes == 1:
        # "compact" binds a process's threads side by side from the first CPU of its mask on, so that several processes
        # would all sit on the same ones; without it, threads are not bound ("none" is the default). "Thread Affinity
        # Interface", Intel oneAPI DPC++/C++ Compiler Developer Guide and Reference.
        chosen["KMP_AFFINITY"] = _KMP_AFFINITY
    return {name: value for name, value in chosen.items() if name not in environ}


def _onednn(config: JobConfig, environ: Mapping[str, str]) -> dict[str, str]:
    """The switch. A variable is nearer to the user than the hyperparameter; where neither is set TensorFlow decides.

    TensorFlow 2.15 and 2.21 from PyPI read TF_ENABLE_ONEDNN_OPTS alone: neither TF_DISABLE_MKL nor
    TF_DISABLE_POOL_ALLOCATOR occurs in their shared objects. Builds with Intel's ENABLE_MKL read TF_DISABLE_MKL.
    """
    # TensorFlow reads these words as true, in any case.
    if environ.get("TF_DISABLE_MKL", "").lower() in ("1", "true"):
        enabled = False
    elif config.framework_parameters.get(contract.MKL_ENABLED) is None:
        return {}
    else:
        enabled = config.flag(contract.MKL_ENABLED)
    if enabled:
        return {"TF_ENABLE_ONEDNN_OPTS": "1"}
    return {"TF_DISABLE_MKL": "1", "TF_DISABLE_POOL_ALLOCATOR": "1", "TF_ENABLE_ONEDNN_OPTS": "0"}
