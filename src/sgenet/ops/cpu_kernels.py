"""The CPU kernels, called with tensors: the same functions as the other backends of the operator.

The C++ sources lie in `cpu/`; `cpu/kernels.h` explains the algorithm. They are compiled when the package is built, and
installation goes on without a compiler: `availability` then says why the reference runs.

SGENET_CPU_ISA=avx512_bf16, avx512, avx2 or portable chooses the instruction set; unset, the best that the CPU has.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from struct import Struct

import torch
from torch import Tensor, get_num_threads

from sgenet.errors import ConfigError, did_you_mean
from sgenet.ops.checks import check_groups
from sgenet.ops.cpu.build import LIBRARY
from sgenet.ops.reference import NO_NORM, Norm

__all__ = [
    "INSTRUCTION_SETS",
    "availability",
    "backward",
    "channel_means",
    "forward",
    "function",
    "has_threads",
    "instruction_set",
    "moments",
    "norm_backward",
    "scale_channels",
    "scale_channels_backward",
]

VARIABLE = "SGENET_CPU_ISA"
_PATH = Path(__file__).with_name(LIBRARY)
INSTRUCTION_SETS = ("avx512_bf16", "avx512", "avx2", "portable")

_FLOAT32 = torch.float32
_OUT_OF_MEMORY, _UNFIT = 1, 2  # what a function answers, unless it is done; cpu/abi.h, Status
_ELEMENTS = {torch.float32: 0, torch.bfloat16: 1}  # cpu/abi.h, Element
_MOST_AXES = 8
_TENSOR = Struct(f"P2q{2 * _MOST_AXES}q")  # cpu/arguments.h, Tensor


def availability() -> str | None:
    """Why the kernels cannot run.

    Returns:
        One line, or None where they can.

    Raises:
        ConfigError: If SGENET_CPU_ISA names no instruction set, or one that this CPU or this build does not have.
    """
    return _loaded()[1]


def instruction_set() -> str:
    """The name of the instruction set that is used: one of `INSTRUCTION_SETS`."""
    name: bytes = _library().sgenet_used()
    return name.decode()


def has_threads() -> bool:
    """Whether the kernels share torch's OpenMP threads; where torch has none that they know, one thread works."""
    return bool(_library().sgenet_has_threads())


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale: float,
    residual: Tensor | None = None,
    relu: bool = False,
    norm: Norm | None = None,
    out: Tensor | None = None,
    *,
    saves: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Spatial Group-wise Enhance of `x`, plus `residual`, through a ReLU.

    The sum with the residual is rounded once, at its end.

    Args:
        x: (B, C, H, W) in float32 or bfloat16; copied where it is neither contiguous nor channels_last. B may be 0.
        weight: γ, `groups` values of any floating dtype.
        bias: β, `groups` values.
        groups: G, a divisor of C.
        eps: ε, added to the standard deviation.
        scale: A constant factor on the gate.
        residual: None, or a tensor of the shape and dtype of `x`.
        relu: Whether negative results become 0.
        norm: None, or a batch norm in front; what it returns is formed in float32 and never stored.
        out: None, or a tensor of the shape, dtype and memory format of `x` to write y to: x itself, the residual, or
            another that overlaps neither.
        saves: Whether to return what `backward` needs.

    Returns:
        y in the dtype and memory format of `x`; and for `backward`, or None, g, (B, C) in float32, and `left` and s of
        each group, (B, G, 2) in float32.
    """
    y = torch.empty_like(x) if out is None else out
    semantic = torch.empty(x.shape[:2], dtype=torch.float32) if saves else None
    statistics = torch.empty((x.shape[0], groups, 2), dtype=torch.float32) if saves else None
    front, threads = norm or NO_NORM, get_num_threads()
    if _done("enhance_forward", x, groups, weight, bias, eps, scale, residual, relu, *front, y, semantic, statistics,
             threads):  # fmt: skip
        return y, semantic, statistics
    x = _dense(x)
    residual = None if residual is None else _beside(residual, x)
    fresh = torch.empty_like(x)
    if x.numel() > 0:
        check_groups(x.shape[1], groups)
        weight, bias = _values("weight", weight, groups), _values("bias", bias, groups)
        _do("enhance_forward", x, groups, weight, bias, eps, scale, residual, relu, *_plain_norm(norm, x), fresh,
            semantic, statistics, threads)  # fmt: skip
    return fresh if out is None else out.copy_(fresh), semantic, statistics


def backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    semantic: Tensor,
    statistics: Tensor,
    groups: int,
    eps: float,
    scale: float,
    has_residual: bool,
    relu: bool,
    norm: Norm | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of `forward`.

    Args:
        grad: The gradient of y, of the shape and dtype of `x`, in any memory format.
        x: As given to `forward`.
        y: What `forward` returned; needed, and read, only where `relu` is true.
        weight: As given to `forward`.
        bias: As given to `forward`.
        semantic: What `forward` returned.
        statistics: What `forward` returned.
        groups: As given to `forward`.
        eps: As given to `forward`.
        scale: As given to `forward`.
        has_residual: Whether there was one.
        relu: As given to `forward`.
        norm: As given to `forward`. The gradient is then that of what the norm returned, not of x.

    Returns:
        The gradients of x, of weight and of bias (`groups` values each, in the dtypes of the parameters), and of the
        residual: None without one, and `grad` itself where nothing lies between the two.
    """
    dweight, dbias = (torch.empty(groups, dtype=torch.float32) for _ in range(2))
    front, threads, masks = norm or NO_NORM, get_num_threads(), has_residual and relu
    dx, masked = torch.empty_like(x), torch.empty_like(x) if masks else None
    y = y if relu else None
    if not _done("enhance_backward", x, groups, weight, bias, eps, scale, grad, y, *front, semantic, statistics, dx,
                 masked, dweight, dbias, threads):  # fmt: skip
        x = _dense(x)
        upstream, saved = _like(grad, x), None if y is None else _like(y, x)
        dx, masked = torch.empty_like(x), torch.empty_like(x) if masks else None
        if x.numel() == 0:
            dweight, dbias = dweight.zero_(), dbias.zero_()
        else:
            gamma, beta = _values("weight", weight, groups), _values("bias", bias, groups)
            _do("enhance_backward", x, groups, gamma, beta, eps, scale, upstream, saved, *_plain_norm(norm, x),
                semantic, statistics, dx, masked, dweight, dbias, threads)  # fmt: skip
    dresidual = masked if relu else grad
    return dx, _as(weight.dtype, dweight), _as(bias.dtype, dbias), dresidual if has_residual else None


def scale_channels(
    x: Tensor,
    gate: Tensor,
    residual: Tensor | None = None,
    relu: bool = False,
    norm: Norm | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`x` times a gate a sample and channel, plus `residual`, through a ReLU; rounded once.

    Args:
        x: (B, C, H, W) in float32 or bfloat16; copied where it is neither contiguous nor channels_last.
        gate: (B, C), of any floating dtype.
        residual: None, or a tensor of the shape and dtype of `x`.
        relu: Whether negative results become 0.
        norm: None, or a batch norm in front; what it returns is formed in float32 and never stored.
        out: As for `forward`.

    Returns:
        A tensor of the shape, dtype and memory format of `x`.
    """
    y = torch.empty_like(x) if out is None else out
    front, threads = norm or NO_NORM, get_num_threads()
    if _done("scale_forward", x, gate, residual, relu, *front, y, threads):
        return y
    x = _dense(x)
    residual = None if residual is None else _beside(residual, x)
    fresh = torch.empty_like(x)
    if x.numel() > 0:
        gate = _values("the gate", gate, x.shape[0] * x.shape[1])
        _do("scale_forward", x, gate, residual, relu, *_plain_norm(norm, x), fresh, threads)
    return fresh if out is None else out.copy_(fresh)


def scale_channels_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    gate: Tensor,
    has_residual: bool,
    relu: bool,
    norm: Norm | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of `scale_channels`.

    Args:
        grad: The gradient of y, in any memory format.
        x: As given to `scale_channels`.
        y: What it returned; needed, and read, only where `relu` is true.
        gate: As given to `scale_channels`.
        has_residual: Whether there was one.
        relu: As given to `scale_channels`.
        norm: As given to `scale_channels`. The gradient is then that of what the norm returned, not of x.

    Returns:
        The gradients of x, of the gate ((B, C) in float32), and of the residual: None without one, and `grad` itself
        where nothing lies between the two.
    """
    dgate = torch.empty(x.shape[:2], dtype=torch.float32)
    front, threads, masks = norm or NO_NORM, get_num_threads(), has_residual and relu
    dx, masked = torch.empty_like(x), torch.empty_like(x) if masks else None
    y = y if relu else None
    if not _done("scale_backward", x, gate, grad, y, *front, dx, masked, dgate, threads):
        x = _dense(x)
        dx, masked = torch.empty_like(x), torch.empty_like(x) if masks else None
        gate = _values("the gate", gate, dgate.numel())
        upstream, saved = _like(grad, x), None if y is None else _like(y, x)
        if x.numel() == 0:
            dgate = dgate.zero_()
        else:
            _do("scale_backward", x, gate, upstream, saved, *_plain_norm(norm, x), dx, masked, dgate, threads)
    dresidual = masked if relu else grad
    return dx, dgate, dresidual if has_residual else None


def channel_means(x: Tensor, norm: Norm | None = None) -> Tensor:
    """The mean of each channel of each sample, in one read of `x`.

    Args:
        x: (B, C, H, W) in float32 or bfloat16; copied where it is neither contiguous nor channels_last.
        norm: None, or a batch norm in front.

    Returns:
        (B, C) in the dtype of `x`; nan where there is no position.
    """
    if x.numel() == 0:
        return torch.full(x.shape[:2], math.nan, dtype=x.dtype)
    means, threads = torch.empty(x.shape[:2], dtype=torch.float32), get_num_threads()
    if not _done("channel_means", x, *(norm or NO_NORM), means, threads):
        x = _dense(x)
        _do("channel_means", x, *_plain_norm(norm, x), means, threads)
    return _as(x.dtype, means)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel over samples and positions, in one read of `x`.

    Args:
        x: (B, C, H, W) in float32 or bfloat16; copied where it is neither contiguous nor channels_last.

    Returns:
        Two float32 tensors of C values; nan where there is no position.
    """
    mean, variance = (torch.full(x.shape[1:2], math.nan, dtype=torch.float32) for _ in range(2))
    threads = get_num_threads()
    if x.numel() > 0 and not _done("moments", x, mean, variance, threads):
        _do("moments", _dense(x), mean, variance, threads)
    return mean, variance


def norm_backward(
    grad: Tensor, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, eps: float, kept: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a batch norm.

    Args:
        grad: The gradient of what the norm returned, of the shape and dtype of `x`. It may be overwritten.
        x: The norm's input, (B, C, H, W) in float32 or bfloat16.
        mean: What the norm subtracts from each channel: C float32 values.
        variance: By whose root it divides: C float32 values, biased.
        weight: The norm's factor, C values, or None.
        eps: What the norm adds to the variance.
        kept: Whether both are the norm's own, as in eval mode, and not those of `x`.

    Returns:
        The gradients of x, of the factor and of the summand; the last two in float32.
    """
    inverse = (variance + eps).rsqrt()
    dweight, dbias = (torch.empty(x.shape[1], dtype=torch.float32) for _ in range(2))
    threads = get_num_threads()
    if _done("norm_backward", x, grad, mean, inverse, weight, kept, grad, dweight, dbias, threads):
        return grad, dweight, dbias
    x = _dense(x)
    grad = _like(grad, x)
    if x.numel() == 0:
        return grad, dweight.zero_(), dbias.zero_()
    factor = None if weight is None else _values("weight", weight, x.shape[1], _FLOAT32)
    _do("norm_backward", x, grad, mean, inverse, factor, kept, grad, dweight, dbias, threads)
    return grad, dweight, dbias


# The kernels say what they cannot read as it is; only then is it asked here what that may be, and copied. Asking
# beforehand would take longer than a small map: in caches that have just been streamed through, each question to a
# tensor is a wait for memory.


def _done(name: str, *arguments: object) -> bool:
    """Whether a kernel could do it with these arguments.

    Raises:
        MemoryError: If there is none left for the sums that it forms.
    """
    status = function(name)(*arguments)
    if status == _OUT_OF_MEMORY:
        raise MemoryError(f"no scratch memory for the kernel {name}")
    return status != _UNFIT


def _do(name: str, *arguments: object) -> None:
    if not _done(name, *arguments):
        raise ConfigError(
            f"the kernel {name} cannot read what it was given; SGENET_BACKEND=reference computes the same without it"
        )


def _dense(x: Tensor) -> Tensor:
    """`x` in one of the two layouts."""
    is_dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    return x if is_dense else x.contiguous()


def _like(other: Tensor, x: Tensor) -> Tensor:
    """`other` in the dtype and layout of `x`."""
    if other.shape != x.shape:
        raise ConfigError(
            f"a map has the shape {tuple(other.shape)} beside one of {tuple(x.shape)}; give both the same"
        )
    return other if other.dtype is x.dtype and other.stride() == x.stride() else torch.empty_like(x).copy_(other)


def _beside(residual: Tensor, x: Tensor) -> Tensor:
    """The residual in the dtype and layout of `x`; a copy where it shares but a part of its memory."""
    residual = _like(residual, x)
    distance = abs(residual.data_ptr() - x.data_ptr())
    return residual.clone() if 0 < distance < x.numel() * x.element_size() else residual


def _values(name: str, values: Tensor, count: int, dtype: torch.dtype | None = None) -> Tensor:
    """Values without gaps in `dtype`, or in one that the kernels read."""
    if values.numel() != count:
        raise ConfigError(f"{name} holds {values.numel()} values; give {count}")
    if dtype is None:
        dtype = values.dtype if values.dtype in _ELEMENTS else _FLOAT32
    return values.detach().to(dtype).contiguous()


def _plain_norm(norm: Norm | None, x: Tensor) -> tuple[object, ...]:
    if norm is None:
        return NO_NORM
    parts = (None if v is None else _values("a tensor of the norm", v, x.shape[1]) for v in norm[:4])
    return (*parts, norm[4])


def _as(dtype: torch.dtype, values: Tensor) -> Tensor:
    """Values in float32 as `dtype`; in cold caches torch itself takes long to find that there is nothing to do."""
    return values if dtype is _FLOAT32 else values.to(dtype)


@functools.cache
def function(name: str, watchers: tuple[object, ...] | None = None) -> Callable[..., int]:
    """A kernel as a function of tensors, without any of this module between; its answer is 0 when it is done.

    It takes tensors as they are, and refuses (it answers 2, and has done nothing) what it cannot read: maps that are
    empty, not dense, or not of the same shape, layout and dtype, values that are not dense, and other dtypes than
    float32 and bfloat16. Then the functions of this module do it, or say what is wrong.

    Args:
        name: One of the functions in `cpu/dispatch.cpp`, which takes their arguments apart.
        watchers: None, or what `cpu/watchers.h` asks first; unless they are idle, the function refuses.

    Returns:
        The function.

    Raises:
        ConfigError: If there is no library.
        AttributeError: If there is no such function.
    """
    found: Callable[..., int] | None = _library().sgenet_function(name.encode(), watchers)
    if found is None:
        raise AttributeError(f"there is no kernel {name!r}")
    return found


def _library() -> ctypes.PyDLL:
    library, reason = _loaded()
    if library is None:
        raise ConfigError(f"the CPU kernels cannot run: {reason}")
    return library


@functools.cache
def _loaded() -> tuple[ctypes.PyDLL | None, str | None]:
    """The library, or why there is none."""
    if not _PATH.exists():
        return None, f"{LIBRARY} is not built: no C++ compiler could build it when sgenet was installed"
    try:
        library = _open(_PATH)
    except (OSError, AttributeError) as error:
        return None, f"{_PATH} cannot be loaded: {error}"
    asked = os.environ.get(VARIABLE)
    if asked and not library.sgenet_use(asked.encode()):
        raise ConfigError(
            f"{VARIABLE}={asked} is not what this CPU and this build have.{did_you_mean(asked, INSTRUCTION_SETS)} "
            f"Known: {', '.join(INSTRUCTION_SETS)}; unset {VARIABLE} for the best"
        )
    return library, None


def _open(path: Path) -> ctypes.PyDLL:
    """Load a library and declare its functions."""
    _publish_threads()
    library = ctypes.PyDLL(str(path))
    library.sgenet_used.restype = ctypes.c_char_p
    library.sgenet_function.argtypes = [ctypes.c_char_p, ctypes.py_object]
    library.sgenet_function.restype = ctypes.py_object
    library.sgenet_read_by.argtypes = [ctypes.py_object, ctypes.py_object]
    library.sgenet_read_by(getattr(Tensor, "__dlpack_c_exchange_api__", None), _described)
    return library


def _described(tensor: Tensor) -> bytes:
    """A tensor as the kernels read it, where torch has no table of DLPack's functions."""
    element = _ELEMENTS.get(tensor.dtype, -1) if tensor.is_cpu else -1
    padding = [0] * (_MOST_AXES - tensor.dim())
    return _TENSOR.pack(tensor.data_ptr(), element, tensor.dim(), *tensor.shape, *padding, *tensor.stride(), *padding)


def _publish_threads() -> None:
    """Let the library see torch's OpenMP runtime, where torch has loaded it for itself alone."""
    if not hasattr(ctypes.CDLL(None), "GOMP_parallel"):
        for path in _openmp_runtimes(Path("/proc/self/maps"))[:1]:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL | os.RTLD_NOLOAD)


def _openmp_runtimes(maps: Path) -> list[str]:
    """The OpenMP runtimes of this process, from the kernel's list of its memory; what lies beside torch comes first."""
    try:
        paths = {line.split(maxsplit=5)[-1].strip() for line in maps.read_text().splitlines()}
    except OSError:
        return []
    home = str(Path(torch.__file__).parent)
    found = [path for path in paths if Path(path).name.startswith(("libgomp", "libiomp5", "libomp"))]
    return sorted(found, key=lambda path: (not path.startswith(home), path))
