"""Which backend computes an operator: chosen here and nowhere else.

`reference` is plain torch and computes everything, everywhere. `cpu` is compiled C++, `triton` kernels for CUDA. Where
nothing else is asked for, the first one that can compute an input does: `triton`, `cpu`, `reference`.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch.compiler import is_dynamo_compiling
from torch.utils._python_dispatch import _disable_current_modes

from sgenet.errors import ConfigError, did_you_mean
from sgenet.ops.watchers import WATCHERS

__all__ = [
    "BACKENDS",
    "VARIABLE",
    "at_once",
    "availability",
    "backend_for",
    "backend_module",
    "kernels_for",
    "may_go_at_once",
    "use_backend",
]

VARIABLE = "SGENET_BACKEND"
BACKENDS = ("triton", "cpu", "reference")

_HALF_AND_SINGLE = (torch.float32, torch.bfloat16, torch.float16)
_MODULES = {
    "triton": "sgenet.ops.triton_kernels",
    "cpu": "sgenet.ops.cpu_kernels",
    "reference": "sgenet.ops.reference",
}
_AT_ONCE = ("enhance_forward", "scale_forward", "channel_means", "squeeze_excite")
_log = logging.getLogger("sgenet")
_asked: list[str] = [os.environ.get(VARIABLE, "")]  # then by `use_backend`, the innermost last


@functools.cache
def backend_module(name: str) -> Any:  # noqa: ANN401  # a module; each has the functions of `reference`
    """The module with a backend's functions.

    Args:
        name: One of `BACKENDS`.

    Returns:
        The module, imported.
    """
    return importlib.import_module(_MODULES[name])


def backend_for(device: str, dtype: torch.dtype, axes: int) -> str:
    """The name of the backend for an input.

    Args:
        device: The type of its device, "cpu" or "cuda" say.
        dtype: Its dtype.
        axes: The number of its axes, batch and channels among them.

    Returns:
        One of `BACKENDS`.

    Raises:
        ConfigError: If `use_backend` or SGENET_BACKEND asks for one that cannot compute it; the message says why.

    Examples:
        >>> backend_for("cpu", torch.float64, 4)
        'reference'
    """
    asked = _asked[-1]
    if not asked:
        return _first_that_can(device, dtype, axes)
    _check_known(asked)
    reason = _reason_against(asked, device, dtype, axes)
    if reason is not None:
        how = "use_backend" if len(_asked) > 1 else f"{VARIABLE}={asked}"
        raise ConfigError(f"{how}: the backend '{asked}' cannot compute this: {reason}; take 'reference', or none")
    return asked


def kernels_for(x: Tensor) -> Any:  # noqa: ANN401  # a module
    """The module of the backend that computes an input.

    Args:
        x: The input.

    Returns:
        A module with the functions of `reference`.

    Raises:
        ConfigError: As `backend_for`.
    """
    if _asked[-1]:
        return backend_module(backend_for(x.device.type, x.dtype, x.dim()))
    return _first_module(x.device, x.dtype, x.dim())


# For a compiler the answer is a constant. `torch.compiler.assume_constant_result` sets the same mark, but imports the
# compiler to do so, which takes seconds and needs more than torch.
backend_for._dynamo_marked_constant = True  # type: ignore[attr-defined]


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute with one backend inside the `with`, in all threads; it goes before SGENET_BACKEND, which is read once.

    What is compiled inside keeps its backend; what was compiled before keeps the one it had.

    Args:
        name: One of `BACKENDS`.

    Yields:
        Nothing.

    Raises:
        ConfigError: If there is no such backend.

    Examples:
        >>> with use_backend("reference"):
        ...     backend_for("cuda", torch.float32, 4)
        'reference'
    """
    _check_known(name)
    at_once.after(lambda: _asked.append(name))
    try:
        yield
    finally:
        at_once.after(lambda: _asked.pop(-1 - _asked[::-1].index(name)))


class _AtOnce:
    """The CPU kernels, each an attribute: functions without anything between a call and the kernel.

    They compute, and return 0, where the CPU kernels are what computes maps, where nobody watches, and where no
    argument must be converted or is wrong. Otherwise they do nothing, and return something else: then the operator
    takes its usual way. A compiler cannot trace them; ask `torch.compiler.is_dynamo_compiling` before.
    """

    def __init__(self) -> None:
        self._found: dict[str, dict[str, Any]] = {}  # by what is asked for
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Callable[..., int]:  # where it is not found yet
        if name not in _AT_ONCE:
            raise AttributeError(name)
        with self._lock:
            kernel = backend_module("cpu").function(name, WATCHERS) if _cpu_is_first() else _refuse
            self.__dict__[name] = kernel
        found: Callable[..., int] = kernel
        return found

    def after(self, change: Callable[[], object]) -> None:
        """Have something else computed from now on.

        Args:
            change: Changes what is asked for.
        """
        with self._lock:
            self._found[_asked[-1]] = self.__dict__
            change()
            self.__dict__ = self._found.get(_asked[-1], {"_found": self._found, "_lock": self._lock})


at_once = _AtOnce()


def may_go_at_once(x: Tensor) -> bool:
    """Whether to allocate a result and ask `at_once` for it; it would refuse otherwise.

    Args:
        x: The operator's input.

    Returns:
        False while a compiler traces or gradients are recorded, and for what is not a plain tensor on the CPU.
    """
    return not is_dynamo_compiling() and not is_grad_enabled() and type(x) is Tensor and x.is_cpu


def _refuse(*_: object) -> int:
    return 1


def _cpu_is_first() -> bool:
    try:
        return backend_for("cpu", torch.float32, 4) == "cpu"
    except ConfigError:  # the operator says so
        return False


def availability() -> dict[str, str | None]:
    """Which backends this machine has.

    Returns:
        For each of `BACKENDS` None where it is there, or the reason why it is not.

    Examples:
        >>> availability()["reference"] is None
        True
    """
    return {name: _missing(name) for name in BACKENDS}


@functools.cache
def _first_that_can(device: str, dtype: torch.dtype, axes: int) -> str:
    return next(name for name in BACKENDS if _reason_against(name, device, dtype, axes) is None)


@functools.cache
def _first_module(device: torch.device, dtype: torch.dtype, axes: int) -> Any:  # noqa: ANN401  # a module
    return backend_module(_first_that_can(device.type, dtype, axes))


def _check_known(name: str) -> None:
    if name not in BACKENDS:
        raise ConfigError(
            f"{VARIABLE}={name}: there is no such backend.{did_you_mean(name, BACKENDS)} Known: {', '.join(BACKENDS)}"
        )


def _reason_against(name: str, device: str, dtype: torch.dtype, axes: int) -> str | None:
    """Why a backend cannot compute such an input; None where it can."""
    if name == "reference":
        return None
    dtypes = _HALF_AND_SINGLE if name == "triton" else _HALF_AND_SINGLE[:2]
    if axes != 4:
        return f"it takes maps with a height and a width, not {axes - 2} spatial axes"
    if dtype not in dtypes:
        return f"it takes {', '.join(str(d).removeprefix('torch.') for d in dtypes)}, not {dtype}"
    wanted = "cpu" if name == "cpu" or _interpreted() else "cuda"
    if device != wanted:
        more = " (TRITON_INTERPRET=1 interprets it on a CPU, slowly)" if name == "triton" else ""
        return f"it computes on {wanted}, not on {device}{more}"
    return _missing(name)


def _missing(name: str) -> str | None:
    if name == "reference":
        return None
    return _triton_missing(_interpreted()) if name == "triton" else _cpu_missing()


def _interpreted() -> bool:
    # The interpreter is for tests, far too slow to be chosen without being asked for.
    return os.environ.get("TRITON_INTERPRET") == "1" and "triton" in (_asked[0], _asked[-1])


@functools.cache
def _cpu_missing() -> str | None:
    reason: str | None = backend_module("cpu").availability()
    if reason is not None:
        _log.info("sgenet's CPU kernels are not used: %s; plain torch computes instead", reason)
    return reason


@functools.cache
def _triton_missing(interpreted: bool) -> str | None:
    if not interpreted and not torch.cuda.is_available():
        return "there is no CUDA device"
    if not interpreted and torch.version.hip is not None:
        return "it was never tried on AMD's GPUs"
    try:
        backend_module("triton")
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    return None if interpreted else _first_use("triton", "cuda")


def _first_use(name: str, device: str) -> str | None:
    """Why a backend that compiles for the machine at hand is not to be trusted there; None where it computes right."""
    kernels, reference = backend_module(name), backend_module("reference")
    try:
        with _disable_current_modes():  # an exporter's tensors have no contents to compare
            for layout in (torch.contiguous_format, torch.channels_last):
                _check_against(reference, kernels, torch.device(device), layout)
    except Exception as error:  # whatever a compiler that was not made for this GPU may raise
        reason = f"on this machine it fails its check ({' '.join(str(error).split())[:300]})"
        _log.warning("sgenet's backend '%s' is not used: %s; plain torch computes instead", name, reason)
        return reason
    return None


def _check_against(reference: Any, kernels: Any, device: torch.device, layout: torch.memory_format) -> None:  # noqa: ANN401  # modules
    settings = (8, 1e-5, 1.0)
    numbers = torch.Generator("cpu").manual_seed(0)
    drawn = torch.randn(3, 2, 32, 5, 7, generator=numbers, device="cpu", dtype=torch.float32)
    x, residual, grad = drawn.to(device)
    x = x.contiguous(memory_format=layout)
    weight, bias = x[0, :8, 0, 0], x[0, 8:16, 0, 0]
    y, *saved = kernels.forward(x, weight, bias, *settings, residual, True)
    expected, *expected_saved = reference.forward(x, weight, bias, *settings, residual, True)
    torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-3)
    dx = kernels.backward(grad, x, y, weight, bias, *saved, *settings, True, True)[0]
    expected = reference.backward(grad, x, expected, weight, bias, *expected_saved, *settings, True, True)[0]
    torch.testing.assert_close(dx, expected, rtol=1e-2, atol=1e-2)
