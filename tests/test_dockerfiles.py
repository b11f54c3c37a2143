"""The Dockerfiles, as far as a look at them tells."""

from __future__ import annotations

import difflib
from pathlib import Path

DOCKER = Path(__file__).parent.parent / "docker"


def instructions(name: str) -> list[str]:
    """The lines that are no comments."""
    return [line for line in (DOCKER / name).read_text().splitlines() if not line.startswith("#")]


def test_the_gpu_image_differs_in_what_tensorflow_is_installed_with_and_in_its_devices() -> None:
    different = [
        line
        for line in difflib.ndiff(instructions("Dockerfile.cpu"), instructions("Dockerfile.gpu"))
        if line[0] in "-+"
    ]

    then = " && python -c 'import tensorflow; print(tensorflow.__version__)'"
    assert different == [
        f"- RUN pip install tensorflow-cpu==${{TENSORFLOW}}{then}",
        f'+ RUN pip install "tensorflow[and-cuda]==${{TENSORFLOW}}"{then}',
        "+ ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    ]


def test_both_of_dockers_builders_take_them() -> None:
    """The older one knows neither mounts nor heredocs, and a syntax line has the other fetch an image first."""
    for name in ("Dockerfile.cpu", "Dockerfile.gpu"):
        text = (DOCKER / name).read_text()
        assert "--mount" not in text and "<<" not in text and "--link" not in text
        assert not text.lower().startswith("# syntax")
