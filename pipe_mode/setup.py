"""Builds the reader with a C compiler alone: no headers of Python or TensorFlow, so that it goes with any of both.

Where there is no compiler the rest is installed, and tf_toolkit.pipe_mode reads in Python.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

SOURCES = Path("src/tf_toolkit_pipe_mode")
# What it is linked with at run time, which TensorFlow has loaded by then.
FRAMEWORK = "libtensorflow_framework.so.2"


class BuildReader(build_ext):
    """A plain shared library, whose name tells nothing of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        return f"{fullname.replace('.', '/')}.so"

    def build_extension(self, ext: Extension) -> None:
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        empty = folder / "empty.c"
        empty.write_text("typedef int nothing;\n")
        # In TensorFlow's place: all that is wanted of it here is its name.
        objects = self.compiler.compile([str(empty)], output_dir=str(folder))
        stub = folder / FRAMEWORK
        self.compiler.link_shared_object(objects, str(stub), extra_postargs=[f"-Wl,-soname,{FRAMEWORK}"])
        # Also where linkers leave out what no symbol is taken from.
        ext.extra_link_args += ["-Wl,--no-as-needed", str(stub)]
        super().build_extension(ext)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return list(ext.export_symbols)


class BuildPackage(build_py):
    """With the file that has Python look for sagemaker_tensorflow in here last."""

    def run(self) -> None:
        super().run()
        self.copy_file("src/tf_toolkit_pipe_mode.pth", self.build_lib)


class Wheel(bdist_wheel):
    """For any Python on this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            "tf_toolkit_pipe_mode.read_records",
            [str(SOURCES / "read_records.c")],
            depends=[str(path) for path in SOURCES.glob("*.h")],
            extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wextra"],
            extra_link_args=["-pthread"],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildReader, "build_py": BuildPackage, "bdist_wheel": Wheel},
)
