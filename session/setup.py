"""Builds the module with a C compiler and Python's headers alone: none of numpy or TensorFlow, so it goes with any.

Where they are missing it is left out, and tf_toolkit.serving calls TensorFlow by ctypes.
"""

from __future__ import annotations

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "tf_toolkit_session",
            ["src/tf_toolkit_session.c"],
            extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wextra"],
            optional=True,
        )
    ],
)
