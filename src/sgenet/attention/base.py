"""What every attention module of this package promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional as F

from sgenet.errors import ConfigError

__all__ = ["Attention"]


class Attention(nn.Module, ABC):
    """Base class: a module that multiplies its input with a gate, and keeps shape, dtype and memory format.

    A subclass takes `(channels, *, ..., device=None, dtype=None)`, so that it also fits timm's `attn_layer`, declares
    the range of its gate and computes it. A module that does not multiply declares no range and has its own `attend`;
    none has its own `forward`, which a residual block does not call.

    Attributes:
        channels: Number of input channels.
        gate_range: The interval the gate lies in before `scale` and `blend`, or None where there is no gate. A class
            attribute; where it depends on an option, the instance has its own.
        spatial_axes: The least and the greatest number of spatial axes of an input; as `gate_range`.
        scale: A constant factor on the gate: 1.0, unless `start_as_identity` was called. It is written to the
            state_dict as a float64 scalar `factor` when it is not 1.0. It is no buffer, because a cast of the network
            to half precision would round it, and the output would not be kept any more.
        factor: None, a buffer without a tensor: the place that tools find which look a state_dict's names up in the
            module, as `torch.func.functional_call` does. What they put there does not change `scale`.
        blend: None, or, in a module without a parameter that could start as the identity, the learned share of its
            gate: 1 + blend (gate - 1). `start_as_identity` creates it, at 0.
    """

    gate_range: tuple[float, float] | None
    spatial_axes: tuple[int, int] = (1, 3)
    channels: int
    scale: float
    factor: Tensor | None
    blend: nn.Parameter | None

    def __init__(
        self, channels: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        del device, dtype  # part of the signature for modules without parameters
        if channels < 1:
            raise ConfigError(f"channels={channels} is not possible; give the number of input channels, 1 or more")
        self.channels = channels
        self.scale = 1.0
        self.register_buffer("factor", None)
        self.register_parameter("blend", None)

    def check_input(self, x: Tensor) -> None:
        """Refuse what is no floating-point (B, C, *spatial) with as many spatial axes as `spatial_axes` allows.

        Raises:
            ConfigError: If it is not; the message names its shape, or its dtype.
        """
        least, most = self.spatial_axes
        if not least + 2 <= x.dim() <= most + 2 or x.shape[1] != self.channels:
            axes = "height, width" if least == most == 2 else f"{least} to {most} spatial axes"
            raise ConfigError(
                f"{type(self).__name__}({self.channels}) takes (batch, {self.channels}, {axes}), "
                f"not a tensor of shape {tuple(x.shape)}"
            )
        if not x.is_floating_point():
            raise ConfigError(
                f"{type(self).__name__}({self.channels}) takes floating-point input, not {x.dtype}; "
                "convert it with .float()"
            )

    def forward(self, x: Tensor) -> Tensor:
        """What `attend` computes.

        Args:
            x: Input of shape (B, C, *spatial).

        Returns:
            A tensor of the shape, dtype and memory format of `x`.
        """
        if isinstance(x, Proxy):
            # For torch.fx a module is one node, as torch's own layers are: how it asks for sizes is not its business.
            return x.tracer.create_proxy("call_module", x.tracer.path_of_module(self), (x,), {})
        return self.attend(x)

    def attend(self, x: Tensor) -> Tensor:
        """Multiply `x` with its gate; a module that does something else has its own.

        Args:
            x: Input of shape (B, C, *spatial).

        Returns:
            A tensor of the shape, dtype and memory format of `x`.
        """
        return x * self.gate(x)

    def join(self, x: Tensor, residual: Tensor, norm: nn.Module | None = None) -> Tensor:
        """The end of a residual block: relu(attend(norm(x)) + residual).

        A module overrides it where it can do this in fewer passes over memory.

        Args:
            x: What the branch's last convolution (or norm) returned: (B, C, *spatial). It may be overwritten where no
                gradient is wanted.
            residual: What came by the shortcut, of the shape of `x`.
            norm: The norm between the branch and the attention, if it is not yet applied.

        Returns:
            A tensor of the shape of `x`, in its memory format.
        """
        branch = self.attend(x if norm is None else norm(x))
        wanted = branch is x and torch.is_grad_enabled() and x.requires_grad
        return F.relu_(branch + residual if wanted or branch.dtype != residual.dtype else branch.add_(residual))

    @abstractmethod
    def gate(self, x: Tensor) -> Tensor:
        """The factor that `forward` multiplies its input with.

        Args:
            x: Input of shape (B, C, *spatial).

        Returns:
            A tensor that broadcasts against `x`: (B, C, *spatial), or 1 where an axis shares one value. A module
            without a gate returns the weights with which it looks at the positions, in the same shape.
        """

    @abstractmethod
    def start_as_identity(self) -> None:
        """Change parameters, `scale` and `blend` so that the module returns its input and can still learn."""

    @classmethod
    def fit_options(cls, channels: int, options: dict[str, Any], size: tuple[int, ...] | None = None) -> dict[str, Any]:
        """Adapt options to a place with `channels` channels, where the asked ones would not fit.

        Args:
            channels: Channels at the place.
            options: What the user asked for.
            size: Of the map at the place, for a module that fits one size alone.

        Returns:
            The options to build the module with.
        """
        del channels, size
        return options

    def start_blended(self) -> None:
        """Give the module a `blend` of 0, on the CPU in float32; `.to()` takes it where the network is."""
        self.blend = nn.Parameter(torch.zeros(()))

    def blended(self, gate: Tensor) -> Tensor:
        """The part of `gate` that `blend` lets through; all of it where there is no `blend`."""
        return gate if self.blend is None else 1 + self.blend.to(gate.dtype) * (gate - 1)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:  # noqa: ANN401  # torch's signature
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.scale != 1.0:
            # On the CPU even while modules are built on the meta device, where its value would be lost.
            destination[prefix + "factor"] = torch.tensor(self.scale, dtype=torch.float64, device="cpu")

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = prefix + "factor"
        if self.blend is None and prefix + "blend" in state_dict:
            self.start_blended()
        if key in state_dict:
            if not state_dict[key].is_meta:  # there it has no value, as nothing else has
                self.scale = float(state_dict[key])
        elif any(name.startswith(prefix) for name in state_dict):
            # Weights that were written without a factor or a blend were trained without one.
            self.scale = 1.0
            if prefix + "blend" not in state_dict:
                self.blend = None
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if key in unexpected_keys:
            unexpected_keys.remove(key)
