"""The CPU kernels, called through ctypes: the same functions as the other backends of the operator.

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
from sgenet.ops.reference import Norm

__all__ = [
    "INSTRUCTION_SETS",
    "availability",
    "backward",
    "channel_means",
    "forward",
    "has_threads",
    "instruction_set",
    "moments",
    "norm_backward",
    "scale_channels",
    "scale_channels_backward",
    "squeeze_excite_gate",
]

VARIABLE = "SGENET_CPU_ISA"
_PATH = Path(__file__).with_name(LIBRARY)
INSTRUCTION_SETS = ("avx512_bf16", "avx512", "avx2", "portable")

# cpu/records.h: what each function is given, as one record of words of 8 bytes.
_MAP, _NORM, _GATE = "6q", "4Pdq", "2P2q2d"
_RECORDS = {
    "sgenet_enhance_forward": Struct(f"5Pq{_GATE}{_NORM}{_MAP}"),
    "sgenet_enhance_backward": Struct(f"9P{_GATE}{_NORM}{_MAP}"),
    "sgenet_scale_forward": Struct(f"4Pq{_NORM}{_MAP}"),
    "sgenet_scale_backward": Struct(f"7P{_NORM}{_MAP}"),
    "sgenet_channel_means": Struct(f"2P{_NORM}{_MAP}"),
    "sgenet_squeeze_excite": Struct(f"6Pq{_NORM}{_MAP}"),
    "sgenet_moments": Struct(f"3P{_MAP}"),
    "sgenet_norm_backward": Struct(f"8Pq{_MAP}"),
}
# What the kernels stream through the caches drives everything else out of them. Then every name that is looked up in a
# module as large as torch is waited for, and so is the code of every method of a tensor when it is first called: names
# of our own, therefore, and few kinds of questions.
_FLOAT32, _BFLOAT16 = torch.float32, torch.bfloat16
_NO_NORM = (0, 0, 0, 0, 0.0, 0)
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
    x, channels_last = _dense(x)
    residual = _beside(residual, x, channels_last)
    y = torch.empty_like(x) if out is None or out.stride() != x.stride() else out
    semantic = torch.empty(x.shape[:2], dtype=torch.float32) if saves else None
    statistics = torch.empty((x.shape[0], groups, 2), dtype=torch.float32) if saves else None
    if x.numel() == 0:
        return y if out is None else out, semantic, statistics
    channels = x.shape[1]
    (gate, _gate_kept), (front, _norm_kept) = _gate(weight, bias, groups, eps, scale, channels), _norm(norm, channels)
    _call(
        "sgenet_enhance_forward",
        x.data_ptr(), _address(residual), y.data_ptr(), _address(semantic), _address(statistics), relu,
        *gate, *front, *_map(x, channels_last),
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
    x, channels_last = _dense(x)
    upstream = _like(grad, x, channels_last)
    saved = _like(y, x, channels_last) if relu and y is not None else None
    dx = torch.empty_like(x)
    masked = torch.empty_like(x) if has_residual and relu else None
    dweight, dbias = (torch.empty(groups, dtype=torch.float32) for _ in range(2))
    channels = x.shape[1]
    (gate, _gate_kept), (front, _norm_kept) = _gate(weight, bias, groups, eps, scale, channels), _norm(norm, channels)
    _call(
        "sgenet_enhance_backward",
        upstream.data_ptr(), x.data_ptr(), _address(saved), semantic.data_ptr(), statistics.data_ptr(), dx.data_ptr(),
        _address(masked), dweight.data_ptr(), dbias.data_ptr(),
        *gate, *front, *_map(x, channels_last),
    )  # fmt: skip
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
    x, channels_last = _dense(x)
    residual = _beside(residual, x, channels_last)
    y = torch.empty_like(x) if out is None or out.stride() != x.stride() else out
    gate = _floats(gate)
    _check_count("the gate", gate, x.shape[0] * x.shape[1])
    front, _norm_kept = _norm(norm, x.shape[1])
    _call(
        "sgenet_scale_forward",
        x.data_ptr(), _address(residual), y.data_ptr(), gate.data_ptr(), relu, *front, *_map(x, channels_last),
    )  # fmt: skip
    return y if out is None or y is out else out.copy_(y)


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
    x, channels_last = _dense(x)
    upstream = _like(grad, x, channels_last)
    saved = _like(y, x, channels_last) if relu and y is not None else None
    dx = torch.empty_like(x)
    masked = torch.empty_like(x) if has_residual and relu else None
    dgate = torch.empty(x.shape[:2], dtype=torch.float32)
    gate = _floats(gate)
    _check_count("the gate", gate, x.shape[0] * x.shape[1])
    front, _norm_kept = _norm(norm, x.shape[1])
    _call(
        "sgenet_scale_backward",
        upstream.data_ptr(), x.data_ptr(), _address(saved), gate.data_ptr(), dx.data_ptr(), _address(masked),
        dgate.data_ptr(), *front, *_map(x, channels_last),
    )  # fmt: skip
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
    x, channels_last = _dense(x)
    if x.numel() == 0:
        return torch.full(x.shape[:2], math.nan, dtype=x.dtype)
    means = torch.empty(x.shape[:2], dtype=torch.float32)
    front, _norm_kept = _norm(norm, x.shape[1])
    _call("sgenet_channel_means", x.data_ptr(), means.data_ptr(), *front, *_map(x, channels_last))
    return _as(x.dtype, means)


def squeeze_excite_gate(
    x: Tensor, weight1: Tensor, bias1: Tensor | None, weight2: Tensor, bias2: Tensor | None, norm: Norm | None = None
) -> Tensor:
    """sigmoid(W2 relu(W1 mean(x) + b1) + b2), in one read of `x` and of the weights.

    Args:
        x: (B, C, H, W) in float32 or bfloat16; copied where it is neither contiguous nor channels_last.
        weight1: W1, (hidden, C).
        bias1: b1, `hidden` values, or None.
        weight2: W2, (C, hidden).
        bias2: b2, C values, or None.
        norm: None, or a batch norm in front, whose output's means are taken.

    Returns:
        (B, C) in float32; nan where there is no position.
    """
    x, channels_last = _dense(x)
    if x.numel() == 0:
        return torch.full(x.shape[:2], math.nan)
    channels, hidden = x.shape[1], weight1.shape[0]
    layers = [_typed(values, x.dtype) for values in (weight1, bias1, weight2, bias2)]
    for values, count in zip(layers, (hidden * channels, hidden, channels * hidden, channels), strict=True):
        if values is not None:
            _check_count("a tensor of the layers", values, count)
    gate = torch.empty(x.shape[:2], dtype=torch.float32)
    front, _norm_kept = _norm(norm, channels)
    _call(
        "sgenet_squeeze_excite",
        x.data_ptr(), gate.data_ptr(), *map(_address, layers), hidden, *front, *_map(x, channels_last),
    )  # fmt: skip
    return gate


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel over samples and positions, in one read of `x`.

    Args:
        x: (B, C, H, W) in float32 or bfloat16; copied where it is neither contiguous nor channels_last.

    Returns:
        Two float32 tensors of C values; nan where there is no position.
    """
    x, channels_last = _dense(x)
    mean, variance = (torch.full(x.shape[1:2], math.nan, dtype=torch.float32) for _ in range(2))
    _call("sgenet_moments", x.data_ptr(), mean.data_ptr(), variance.data_ptr(), *_map(x, channels_last))
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
    x, channels_last = _dense(x)
    upstream = _like(grad, x, channels_last)
    inverse, factor = (variance + eps).rsqrt(), None if weight is None else _floats(weight)
    dweight, dbias = (torch.empty(x.shape[1], dtype=torch.float32) for _ in range(2))
    _call(
        "sgenet_norm_backward",
        upstream.data_ptr(), x.data_ptr(), mean.data_ptr(), inverse.data_ptr(), _address(factor), upstream.data_ptr(),
        dweight.data_ptr(), dbias.data_ptr(), kept, *_map(x, channels_last),
    )  # fmt: skip
    return upstream, dweight, dbias


def _dense(x: Tensor) -> tuple[Tensor, bool]:
    """`x` in one of the two layouts, and whether it is channels_last."""
    _, channels, height, width = x.shape
    if x.stride() == (channels * height * width, 1, width * channels, channels):  # asking torch takes longer
        return x, True
    if x.is_contiguous():
        return x, False
    if x.is_contiguous(memory_format=torch.channels_last):  # axes of one element may have any stride
        return x, True
    return x.contiguous(), False


def _beside(residual: Tensor | None, x: Tensor, channels_last: bool) -> Tensor | None:
    """The residual in the dtype and layout of `x`; a copy where it shares but a part of its memory."""
    if residual is None:
        return None
    residual = _like(residual, x, channels_last)
    distance = abs(residual.data_ptr() - x.data_ptr())
    return residual.clone() if 0 < distance < x.numel() * (2 if x.dtype is _BFLOAT16 else 4) else residual


def _like(other: Tensor, x: Tensor, channels_last: bool) -> Tensor:
    """`other` in the dtype and layout of `x`."""
    if other.shape != x.shape:
        raise ConfigError(
            f"a map has the shape {tuple(other.shape)} beside one of {tuple(x.shape)}; give both the same"
        )
    if other.dtype is x.dtype and other.stride() == x.stride():
        return other
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return other.to(x.dtype).contiguous(memory_format=layout)


def _floats(values: Tensor) -> Tensor:
    return values.detach().float().contiguous()


def _as(dtype: torch.dtype, values: Tensor) -> Tensor:
    """Values in float32 as `dtype`; in cold caches torch itself takes long to find that there is nothing to do."""
    return values if dtype is _FLOAT32 else values.to(dtype)


def _typed(values: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Values in `dtype` without gaps: themselves, where they are."""
    if values is None or (values.dtype is dtype and values.is_contiguous()):
        return values
    return values.detach().to(dtype).contiguous()


def _readable(values: Tensor) -> Tensor:
    """What the kernels can read in place, or a copy that they can."""
    dtype = values.dtype
    in_place = (dtype is _FLOAT32 or dtype is _BFLOAT16) and values.is_contiguous()
    return values if in_place else _floats(values)


# The parts of records, and what must live until the kernel has run because they point to it.


def _check_count(name: str, values: Tensor, count: int) -> None:
    """The kernels read so many, whatever there is."""
    if values.numel() != count:
        raise ConfigError(f"{name} holds {values.numel()} values; give {count}")


def _gate(
    weight: Tensor, bias: Tensor, groups: int, eps: float, scale: float, channels: int
) -> tuple[tuple[int, int, int, int, float, float], tuple[Tensor, Tensor]]:
    check_groups(channels, groups)
    _check_count("weight", weight, groups)
    _check_count("bias", bias, groups)
    weight, bias = _readable(weight), _readable(bias)
    narrow = (weight.dtype is _BFLOAT16) | (bias.dtype is _BFLOAT16) << 1
    return (weight.data_ptr(), bias.data_ptr(), narrow, groups, eps, scale), (weight, bias)


def _norm(norm: Norm | None, channels: int) -> tuple[tuple[float, ...], list[Tensor]]:
    if norm is None:
        return _NO_NORM, []
    places, kept, narrow = [], [], 0
    for bit, values in enumerate(norm[:4]):
        if values is None:
            places.append(0)
        else:
            _check_count("a tensor of the norm", values, channels)
            values = _readable(values)
            kept.append(values)
            places.append(values.data_ptr())
            narrow |= (values.dtype is _BFLOAT16) << bit
    return (*places, norm[4], narrow), kept


def _map(x: Tensor, channels_last: bool) -> tuple[int, int, int, bool, bool, int]:
    batch, channels, height, width = x.shape
    return batch, channels, height * width, channels_last, x.dtype is _BFLOAT16, get_num_threads()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _call(name: str, *record: float) -> None:
    pack, run = _function(name)
    if run(pack(*record)) == _OUT_OF_MEMORY:
        raise MemoryError("no scratch memory for Spatial Group-wise Enhance")


@functools.cache
def _function(name: str) -> tuple[Callable[..., bytes], Callable[[bytes], int]]:
    """What packs a function's record, and the function."""
    return _RECORDS[name].pack, getattr(_library(), name)


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
    for name in _RECORDS:
        getattr(library, name).argtypes = [ctypes.c_char_p]
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
