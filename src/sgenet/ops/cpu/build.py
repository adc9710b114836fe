"""Compile the CPU kernels into one shared library.

Needs a C++17 compiler that knows the vector extensions: GCC 10 or Clang 12 and later. It is looked for in $CXX, then
under its usual names. The library is linked against no OpenMP runtime: threads.h says why.

This file imports nothing of the package, because it is used where the package is not installed yet.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["LIBRARY", "BuildError", "build", "find_compiler"]

LIBRARY = "_sgenet_cpu.so"
"""The library's file name; Python's own suffix would promise an extension module."""

_HERE = Path(__file__).resolve().parent
_NAMES = ("c++", "g++", "clang++")
_FLAGS = (
    *("-std=gnu++17", "-O3", "-fPIC", "-fvisibility=hidden"),
    # Products are added without being rounded first, and no code is kept that only errno or a trap could see.
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    *("-Wall", "-Wextra", "-Wno-psabi"),  # psabi: vectors are passed only where everything is inlined
)
_AVX2 = ("-mavx2", "-mfma")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512")
_X86_SOURCES = {
    "spatial_group_enhance_avx512_bf16.cpp": (*_AVX512, "-mavx512bf16"),
    "spatial_group_enhance_avx512.cpp": _AVX512,
    "spatial_group_enhance_avx2.cpp": _AVX2,
}
_SOURCES: dict[str, tuple[str, ...]] = {"spatial_group_enhance_portable.cpp": (), "dispatch.cpp": ()}


class BuildError(Exception):
    """Why there is no library, in one line."""


def find_compiler() -> list[str]:
    """The compiler's command.

    Returns:
        The words of $CXX, or the path of the first of c++, g++ and clang++ that exists.

    Raises:
        BuildError: If there is none.
    """
    asked = shlex.split(os.environ.get("CXX", ""))
    for name in (asked[0],) if asked else _NAMES:
        found = shutil.which(name)
        if found:
            return [found, *asked[1:]]
    raise BuildError(f"no C++ compiler ({asked[0] + ' of $CXX' if asked else ', '.join(_NAMES)}) on the PATH")


def build(folder: Path, extra: Sequence[str] = (), machine: str | None = None) -> Path:
    """Compile and link the library, unless the one that is there was made of the same sources in the same way.

    Args:
        folder: Where to put it; an older one is replaced in one step.
        extra: Further flags for the compiler and the linker, e.g. sanitizers.
        machine: The processor's name as `platform.machine` gives it, where the compiler builds for another.

    Returns:
        The library's path.

    Raises:
        BuildError: If there is no compiler, or it fails; the message ends with the first error it reported.
    """
    compiler = find_compiler()
    sources = {**_SOURCES, **(_X86_SOURCES if (machine or platform.machine()).lower() in ("x86_64", "amd64") else {})}
    stamp = _stamp(compiler, [*sources, *extra, platform.system()])
    library = folder / LIBRARY
    if library.is_file() and stamp.encode() in library.read_bytes():
        return library
    with tempfile.TemporaryDirectory() as scratch:
        objects = [str(Path(scratch) / f"{name}.o") for name in sources]
        commands = [
            [*compiler, *_FLAGS, *flags, *extra, f'-DSGENET_STAMP="{stamp}"', "-c", str(_HERE / name), "-o", target]
            for (name, flags), target in zip(sources.items(), objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        linked = Path(scratch) / LIBRARY
        undefined = ["-undefined", "dynamic_lookup"] if platform.system() == "Darwin" else []
        _run([*compiler, "-shared", *undefined, *extra, *objects, "-o", str(linked)])
        folder.mkdir(parents=True, exist_ok=True)
        # Next to its place first: a rename within one folder is never seen half done.
        fresh = folder / f".{LIBRARY}.{os.getpid()}"
        shutil.copy(linked, fresh)
        fresh.replace(library)
    return library


def _stamp(compiler: Sequence[str], words: Sequence[str]) -> str:
    """What the library is made of and by, as a short text that the library holds."""
    digest = hashlib.sha256("\n".join([*compiler, *words, _run([*compiler, "--version"])]).encode())
    for file in sorted([*_HERE.glob("*.cpp"), *_HERE.glob("*.h"), Path(__file__)]):
        digest.update(file.name.encode() + file.read_bytes())
    return f"sgenet build {digest.hexdigest()}"


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [f"status {done.returncode}"]
        raise BuildError(f"{command[0]} failed: {lines[0]}")
    return done.stdout


if __name__ == "__main__":
    try:
        print(build(_HERE.parent))  # noqa: T201  # a script of one line
    except BuildError as error:
        raise SystemExit(f"the CPU kernels are not built: {error}") from None
