"""The CPU kernels, called through ctypes: the same functions as the other backends of the operator.

The C++ sources lie in `cpu/`; `cpu/kernels.h` explains the algorithm. They are compiled when the package is built, and
installation goes on without a compiler: `availability` then says why the reference runs.

SGENET_CPU_ISA=avx512_bf16, avx512, avx2 or portable chooses the instruction set; unset, the best that the CPU has.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgenet.errors import ConfigError, did_you_mean
from sgenet.ops.cpu.build import LIBRARY

__all__ = [
    "INSTRUCTION_SETS",
    "availability",
    "backward",
    "forward",
    "has_threads",
    "instruction_set",
    "moments",
    "norm_affine",
    "norm_backward",
    "scale_channels",
    "scale_channels_backward",
]

VARIABLE = "SGENET_CPU_ISA"
_PATH = Path(__file__).with_name(LIBRARY)
INSTRUCTION_SETS = ("avx512_bf16", "avx512", "avx2", "portable")

_DTYPES = (torch.float32, torch.bfloat16)
_POINTER, _INDEX, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_ARGUMENTS: dict[str, list[Any]] = {  # what ctypes' classes have in common has no public type
    "sgenet_enhance_forward": [_POINTER] * 9 + [_INDEX] * 4 + [_FLOAT] * 2 + [_INT] * 4,
    "sgenet_enhance_backward": [_POINTER] * 13 + [_INDEX] * 4 + [_FLOAT] * 2 + [_INT] * 3,
    "sgenet_scale_forward": [_POINTER] * 6 + [_INDEX] * 3 + [_INT] * 4,
    "sgenet_scale_backward": [_POINTER] * 9 + [_INDEX] * 3 + [_INT] * 3,
    "sgenet_moments": [_POINTER] * 3 + [_INDEX] * 3 + [_INT] * 3,
    "sgenet_affine": [_POINTER] * 6 + [_INDEX, _FLOAT, _INT],
    "sgenet_norm_backward": [_POINTER] * 8 + [_INDEX] * 3 + [_INT] * 3,
}
_OUT_OF_MEMORY = 1


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
    affine: tuple[Tensor, Tensor] | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
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
        affine: None, or two float32 tensors (a, b) of C values: then a x + b is enhanced, formed in float32.
        out: None, or a tensor of the shape, dtype and memory format of `x` to write y to: x itself, the residual, or
            another that overlaps neither.

    Returns:
        y in the dtype and memory format of `x`; and for `backward` g, (B, C) in float32, and `left` and s of each
        group, (B, G, 2) in float32.
    """
    x, channels_last = _dense(x)
    residual = None if residual is None else _like(residual, x, channels_last)
    y = torch.empty_like(x) if out is None or out.stride() != x.stride() else out
    batch, channels, height, width = x.shape
    semantic = torch.empty((batch, channels), dtype=torch.float32)
    statistics = torch.empty((batch, groups, 2), dtype=torch.float32)
    if x.numel() == 0:
        return y if out is None else out, semantic, statistics
    weight, bias = _floats(weight), _floats(bias)
    _check(
        _library().sgenet_enhance_forward(
            x.data_ptr(), _address(residual), y.data_ptr(), weight.data_ptr(), bias.data_ptr(), *_addresses(affine),
            semantic.data_ptr(), statistics.data_ptr(), batch, channels, height * width, groups, eps, scale,
            relu, channels_last, x.dtype is torch.bfloat16, torch.get_num_threads(),
        )
    )  # fmt: skip
    return y if out is None or y is out else out.copy_(y), semantic, statistics


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
    affine: tuple[Tensor, Tensor] | None = None,
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
        affine: As given to `forward`. The gradient is then that of the map a x + b, not of x.

    Returns:
        The gradients of x, of weight and of bias (`groups` values each, in the dtypes of the parameters), and of the
        residual: None without one, and `grad` itself where nothing lies between the two.
    """
    x, channels_last = _dense(x)
    upstream = _like(grad, x, channels_last)
    saved = _like(y, x, channels_last) if relu and y is not None else None
    dx = torch.empty_like(x)
    masked = torch.empty_like(x) if has_residual and relu else None
    batch, channels, height, width = x.shape
    dweight, dbias = (torch.empty(groups, dtype=torch.float32) for _ in range(2))
    gamma, beta = _floats(weight), _floats(bias)
    _check(
        _library().sgenet_enhance_backward(
            upstream.data_ptr(), x.data_ptr(), _address(saved), gamma.data_ptr(), beta.data_ptr(),
            semantic.data_ptr(), statistics.data_ptr(), *_addresses(affine), dx.data_ptr(), _address(masked),
            dweight.data_ptr(), dbias.data_ptr(), batch, channels, height * width, groups, eps, scale,
            channels_last, x.dtype is torch.bfloat16, torch.get_num_threads(),
        )
    )  # fmt: skip
    dresidual = masked if relu else grad
    return dx, dweight.to(weight.dtype), dbias.to(bias.dtype), dresidual if has_residual else None


def scale_channels(
    x: Tensor,
    gate: Tensor,
    residual: Tensor | None = None,
    relu: bool = False,
    affine: tuple[Tensor, Tensor] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`x` times a gate a sample and channel, plus `residual`, through a ReLU; rounded once.

    Args:
        x: (B, C, H, W) in float32 or bfloat16; copied where it is neither contiguous nor channels_last.
        gate: (B, C), of any floating dtype.
        residual: None, or a tensor of the shape and dtype of `x`.
        relu: Whether negative results become 0.
        affine: None, or two float32 tensors (a, b) of C values: then a x + b is scaled.
        out: As for `forward`.

    Returns:
        A tensor of the shape, dtype and memory format of `x`.
    """
    x, channels_last = _dense(x)
    residual = None if residual is None else _like(residual, x, channels_last)
    y = torch.empty_like(x) if out is None or out.stride() != x.stride() else out
    batch, channels, height, width = x.shape
    gate = _floats(gate)
    _check(
        _library().sgenet_scale_forward(
            x.data_ptr(), _address(residual), y.data_ptr(), gate.data_ptr(), *_addresses(affine),
            batch, channels, height * width, relu, channels_last, x.dtype is torch.bfloat16, torch.get_num_threads(),
        )
    )  # fmt: skip
    return y if out is None or y is out else out.copy_(y)


def scale_channels_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    gate: Tensor,
    has_residual: bool,
    relu: bool,
    affine: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of `scale_channels`.

    Args:
        grad: The gradient of y, in any memory format.
        x: As given to `scale_channels`.
        y: What it returned; needed, and read, only where `relu` is true.
        gate: As given to `scale_channels`.
        has_residual: Whether there was one.
        relu: As given to `scale_channels`.
        affine: As given to `scale_channels`. The gradient is then that of the map a x + b, not of x.

    Returns:
        The gradients of x, of the gate ((B, C) in float32), and of the residual: None without one, and `grad` itself
        where nothing lies between the two.
    """
    x, channels_last = _dense(x)
    upstream = _like(grad, x, channels_last)
    saved = _like(y, x, channels_last) if relu and y is not None else None
    dx = torch.empty_like(x)
    masked = torch.empty_like(x) if has_residual and relu else None
    batch, channels, height, width = x.shape
    dgate = torch.empty((batch, channels), dtype=torch.float32)
    gate = _floats(gate)
    _check(
        _library().sgenet_scale_backward(
            upstream.data_ptr(), x.data_ptr(), _address(saved), gate.data_ptr(), *_addresses(affine),
            dx.data_ptr(), _address(masked), dgate.data_ptr(), batch, channels, height * width,
            channels_last, x.dtype is torch.bfloat16, torch.get_num_threads(),
        )
    )  # fmt: skip
    dresidual = masked if relu else grad
    return dx, dgate, dresidual if has_residual else None


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel over samples and positions, in one read of `x`.

    Args:
        x: (B, C, H, W) in float32 or bfloat16, with at least one sample and position; copied where it is neither
            contiguous nor channels_last.

    Returns:
        Two float32 tensors of C values.
    """
    x, channels_last = _dense(x)
    batch, channels, height, width = x.shape
    mean, variance = (torch.empty(channels, dtype=torch.float32) for _ in range(2))
    _check(
        _library().sgenet_moments(
            x.data_ptr(), mean.data_ptr(), variance.data_ptr(), batch, channels, height * width,
            channels_last, x.dtype is torch.bfloat16, torch.get_num_threads(),
        )
    )  # fmt: skip
    return mean, variance


def norm_backward(
    grad: Tensor, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a batch norm in training.

    Args:
        grad: The gradient of what the norm returned, of the shape and dtype of `x`. It may be overwritten.
        x: The norm's input, (B, C, H, W) in float32 or bfloat16.
        mean: Of each channel of `x`: C float32 values.
        variance: The same, biased.
        weight: The norm's factor, C values, or None.
        eps: What the norm adds to the variance.

    Returns:
        The gradients of x, of the factor and of the summand; the last two in float32.
    """
    x, channels_last = _dense(x)
    upstream = _like(grad, x, channels_last)
    batch, channels, height, width = x.shape
    inverse, factor = (variance + eps).rsqrt(), None if weight is None else _floats(weight)
    dweight, dbias = (torch.empty(channels, dtype=torch.float32) for _ in range(2))
    _check(
        _library().sgenet_norm_backward(
            upstream.data_ptr(), x.data_ptr(), mean.data_ptr(), inverse.data_ptr(), _address(factor),
            upstream.data_ptr(), dweight.data_ptr(), dbias.data_ptr(), batch, channels, height * width,
            channels_last, x.dtype is torch.bfloat16, torch.get_num_threads(),
        )
    )  # fmt: skip
    return upstream, dweight, dbias


def norm_affine(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """The affine layer that a batch norm is in evaluation: x * factor + summand.

    One call in place of five small operations of torch, which take longer than the rest of a layer of one image.

    Args:
        mean: C values of any floating dtype; float32 and bfloat16 are read in place.
        variance: C values.
        weight: C values; None stands for 1.
        bias: C values; None stands for 0.
        eps: Added to the variance.

    Returns:
        factor = weight / sqrt(variance + eps) and summand = bias - mean * factor, both float32.
    """
    factor, summand = torch.empty((2, mean.numel()), dtype=torch.float32).unbind()
    inputs = [None if v is None else _readable(v) for v in (mean, variance, weight, bias)]
    bfloat16 = sum(1 << i for i, v in enumerate(inputs) if v is not None and v.dtype is torch.bfloat16)
    _library().sgenet_affine(
        *map(_address, inputs), factor.data_ptr(), summand.data_ptr(), mean.numel(), eps, bfloat16
    )  # fmt: skip
    return factor, summand


def _dense(x: Tensor) -> tuple[Tensor, bool]:
    """`x` in one of the two layouts, and whether it is channels_last."""
    if x.is_contiguous():
        return x, False
    if x.is_contiguous(memory_format=torch.channels_last):
        return x, True
    return x.contiguous(), False


def _like(other: Tensor, x: Tensor, channels_last: bool) -> Tensor:
    """`other` in the dtype and layout of `x`."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return other.to(x.dtype).contiguous(memory_format=layout)


def _floats(values: Tensor) -> Tensor:
    return values.detach().float().contiguous()


def _readable(values: Tensor) -> Tensor:
    return values if values.dtype in _DTYPES and values.is_contiguous() else _floats(values)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _addresses(affine: tuple[Tensor, Tensor] | None) -> tuple[int | None, int | None]:
    return (None, None) if affine is None else (affine[0].data_ptr(), affine[1].data_ptr())


def _check(status: int) -> None:
    if status == _OUT_OF_MEMORY:
        raise MemoryError("no scratch memory for Spatial Group-wise Enhance")


def _library() -> ctypes.CDLL:
    library, reason = _loaded()
    if library is None:
        raise ConfigError(f"the CPU kernels cannot run: {reason}")
    return library


@functools.cache
def _loaded() -> tuple[ctypes.CDLL | None, str | None]:
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


def _open(path: Path) -> ctypes.CDLL:
    """Load a library and declare its functions."""
    _publish_threads()
    library = ctypes.CDLL(str(path))
    for name, arguments in _ARGUMENTS.items():
        getattr(library, name).argtypes = arguments
    library.sgenet_used.restype = ctypes.c_char_p
    return library


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
