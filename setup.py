"""What pyproject.toml cannot say: the packages with the included models among them, and other compilers' flags."""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

MSVC_FLAGS = ["/std:c++20", "/O2", "/fp:precise", "/EHsc"]

_ENTRY_POINT = re.compile(r"^\w[\w *]*\b(carousel_\w+)\(", re.MULTILINE)


class BuildKernels(build_ext):
    """The extensions are libraries that ctypes loads: they have no PyInit function."""

    def build_extension(self, ext: Extension) -> None:
        if self.compiler.compiler_type == "msvc":
            ext.extra_compile_args = MSVC_FLAGS
        super().build_extension(ext)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """What a library for Windows shows; elsewhere it shows everything."""
        return _ENTRY_POINT.findall(Path(ext.sources[0]).read_text("utf-8"))


setup(
    cmdclass={"build_ext": BuildKernels},
    packages=[
        *find_packages(include=["app*", "carousel*", "models*", "training*"]),
        "carousel.checkpoints",
    ],
    package_dir={"carousel.checkpoints": "checkpoints"},
)
