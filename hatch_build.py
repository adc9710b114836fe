"""Build hook: compiles the CPU kernels into the wheel, and into the source tree where it is installed editable.

A wheel with the library is bound to a platform, not to a Python: the library knows nothing of Python. Without a C++
compiler, or where compiling fails, the wheel is made without it, for any platform, and the reference computes.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CpuKernelsHook(BuildHookInterface):  # type: ignore[type-arg, unused-ignore]
    """Adds `_sgenet_cpu.so` to a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tell hatchling about the file."""
        if self.target_name != "wheel":
            return
        ops = Path(self.root) / "src" / "sgenet" / "ops"
        builder = _builder(ops / "cpu" / "build.py")
        library = ops / builder.LIBRARY
        try:
            builder.build(ops)
        except builder.BuildError as error:
            library.unlink(missing_ok=True)  # of older sources
            self.app.display_warning(f"sgenet: no CPU kernels, the reference will run: {error}")
            return
        if version != "editable":
            build_data["force_include"][str(library)] = f"sgenet/ops/{library.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def _builder(path: Path) -> ModuleType:
    """The package's module that compiles; the package itself needs torch, which is not here."""
    spec = importlib.util.spec_from_file_location("sgenet_cpu_build", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is missing from the source distribution")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
