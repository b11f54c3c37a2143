"""GPUs, as three parties see them: the driver, its library, and TensorFlow. Each can fail alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tf_toolkit.hardware import Hardware
from tf_toolkit.local.doctor.check import FAIL, Check, failed, passed, warned
from tf_toolkit.local.doctor.later import Processes
from tf_toolkit.local.doctor.software import TensorFlow

_NONE = "no GPU"
# Of the machine: a container sees it too, whether or not it was given GPUs.
_DRIVER = Path("/proc/driver/nvidia/version")
_GIVE = "docker run --gpus all, with NVIDIA's container toolkit on the machine"
_VISIBLE = "CUDA_VISIBLE_DEVICES"
# https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__INITIALIZE.html and .../group__CUDA__VERSION.html: 12040 is
# 12.4. cuGetErrorName gives the name of a status.
_LIBRARY = """
import ctypes
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    sys.exit(say(missing=str(error)))
version, count, name = ctypes.c_int(), ctypes.c_int(), ctypes.c_char_p()
status = cuda.cuDriverGetVersion(ctypes.byref(version)) or cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
if status:
    cuda.cuGetErrorName(status, ctypes.byref(name))
say(status=status, name=(name.value or b"").decode(), version=version.value, gpus=count.value)
"""
# TensorFlow's own lines about what it lacks: "Cannot dlopen some GPU libraries", "failed call to cuInit".
_COMPLAINT = re.compile(r"[^\]\n]*(?:dlopen|dynamic library|cuInit)[^\n]*")


def driver(hardware: Hardware) -> Check:
    """What `train` counts."""
    complaints = [warning for warning in hardware.warnings if warning.startswith("nvidia-smi")]
    if complaints:
        remedy = "`nvidia-smi` on the machine itself tells whether its driver works; load or install that anew"
        return failed("GPU driver", complaints[0], remedy)
    version = _driver_version()
    if hardware.gpus:
        return passed("GPU driver", f"{_gpus(hardware.gpus)}, {version or 'driver of no known version'}")
    if version is not None:
        return warned("GPU driver", f"the machine has {version}, and there is no GPU here", _GIVE)
    return passed("GPU driver", _NONE)


def library(hardware: Hardware, processes: Processes) -> Check:
    """Whether the driver's library is here, fits the driver, and sees the GPUs, hidden ones too."""
    if not hardware.gpus:
        return passed("GPU library", _NONE)
    ran = processes.python(_LIBRARY, without=_VISIBLE)
    found = ran.answer
    if "missing" in found:
        remedy = f"{_GIVE}; NVIDIA_DRIVER_CAPABILITIES, if set, must have compute"
        return failed("GPU library", f"the driver's does not load: {found['missing']}", remedy)
    remedy = (
        "it must be of the driver's version: let NVIDIA's container toolkit mount it, and have no other in the image"
    )
    if not found:
        return failed("GPU library", f"libcuda.so.1: {ran.cause}", remedy)
    version = f"libcuda.so.1 for CUDA {found['version'] // 1000}.{found['version'] % 1000 // 10}"
    if found["status"]:
        return failed("GPU library", f"{version} fails: {found['name'] or found['status']}", remedy)
    if found["gpus"] < hardware.gpus:
        return failed("GPU library", f"{version} sees {found['gpus']} of {_gpus(hardware.gpus)}", remedy)
    return passed("GPU library", f"{version}, {_gpus(found['gpus'])}")


def framework(hardware: Hardware, library: Check, tensorflow: TensorFlow, environ: Mapping[str, str]) -> Check:
    """Whether TensorFlow sees what the driver does."""
    if not hardware.gpus:
        return passed("GPU framework", _NONE)
    if tensorflow.version is None:
        return failed("GPU framework", "not tried: TensorFlow cannot be imported", "see TensorFlow")
    remedy = f"pip install 'tensorflow[and-cuda]=={tensorflow.version}', or an image built from Dockerfile.gpu"
    if not tensorflow.cuda:
        return failed("GPU framework", f"TensorFlow {tensorflow.version} is built without CUDA", remedy)
    what = f"TensorFlow for CUDA {tensorflow.cuda_version or 'of no known version'}"
    if library.state == FAIL:
        remedy = f"see {library.name}"
    if tensorflow.gpus is None:
        return failed("GPU framework", f"{what}: {tensorflow.cause}", remedy)
    found = f"{what} sees {tensorflow.gpus} of {_gpus(hardware.gpus)}"
    if tensorflow.gpus >= hardware.gpus:
        return passed("GPU framework", f"{what}, {_gpus(tensorflow.gpus)}")
    if _VISIBLE in environ:
        return failed("GPU framework", f"{found}: {_VISIBLE} is {environ[_VISIBLE]!r}", f"unset {_VISIBLE}")
    complaint = _COMPLAINT.search(tensorflow.log)
    return failed("GPU framework", f"{found}{': ' + complaint[0].strip() if complaint else ''}", remedy)


def _driver_version() -> str | None:
    """``NVIDIA driver 550.54.15``; None where the machine has none."""
    try:
        text = _DRIVER.read_text()
    except OSError:
        return None
    found = re.search(r"\b\d+(?:\.\d+)+\b", text)
    return f"NVIDIA driver {found[0]}" if found else "NVIDIA driver"


def _gpus(count: int) -> str:
    return f"{count} GPU{'' if count == 1 else 's'}"
