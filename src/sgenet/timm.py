"""Our networks by timm's own names: after `import sgenet.timm`, `timm.create_model("sge_resnet50")` builds one.

The networks are timm's ResNets and ResNeXts with attention put into them, and take what timm's take: `features_only`,
`out_indices`, `in_chans`, `num_classes=0`, `global_pool`, `drop_path_rate` and so on. Those for CIFAR, which timm has
not, take the options of `CifarResNetForTimm`, and `features_only` and `out_indices`. Each name is also a function of
this module. A name that timm has already stays timm's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.classifier import create_classifier
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, is_model, register_model
from timm.models._features import feature_take_indices
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from sgenet.errors import ConfigError
from sgenet.models import list_models
from sgenet.models.networks import add_named, split_name
from sgenet.models.resnet_cifar import CifarResNet
from sgenet.models.selective_kernel import use_selective_kernels

__all__ = ["CifarResNetForTimm"]  # timm's decorator adds the names of the networks

_LAYERS = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}


class CifarResNetForTimm(CifarResNet):
    """A CIFAR ResNet with the methods that timm's users and feature extractors call.

    Args:
        depth: 6n + 2, or 9n + 2 of bottlenecks.
        num_classes: Outputs; 0 ends in the pooled features.
        in_chans: Channels of the images.
        global_pool: timm's name of a pooling; "" leaves the map as it is.
        drop_rate: Of the dropout before the classifier.
        stem_stride: Stride of the first convolution.

    Examples:
        >>> import torch
        >>> model = CifarResNetForTimm(8, num_classes=0, in_chans=1)
        >>> model(torch.randn(2, 1, 32, 32)).shape, model.forward_features(torch.randn(2, 1, 32, 32)).shape
        (torch.Size([2, 64]), torch.Size([2, 64, 8, 8]))
    """

    global_pool: Any  # untyped in timm

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        stem_stride: int = 1,
    ) -> None:
        super().__init__(depth, num_classes, stem_stride=stem_stride)
        if in_chans != 3:
            self.conv1 = nn.Conv2d(in_chans, 16, 3, stride=stem_stride, padding=1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.num_features = self.head_hidden_size = self.widths[-1]
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        stages = zip(("relu", "layer1", "layer2", "layer3"), (16, *self.widths), (1, 1, 2, 4), strict=True)
        self.feature_info = [
            {"num_chs": channels, "reduction": stem_stride * reduction, "module": module}
            for module, channels, reduction in stages
        ]
        del self.avgpool
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map: (B, num_features, H / 4, W / 4)."""
        for index in range(4):
            x = self._step(index, x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of the stem and of the three stages, as `feature_info` lists them.

        Args:
            x: Images.
            indices: Which maps: the last so many, or those with these indices; None for all four.
            norm: Part of timm's signature; there is no norm after the last stage.
            stop_early: Leave out the stages behind the last map that is asked for.
            output_fmt: "NCHW".
            intermediates_only: Return no more than the maps.

        Returns:
            The last map that was computed and the maps, or these alone.

        Raises:
            ConfigError: If `output_fmt` is another.
        """
        del norm
        if output_fmt != "NCHW":
            raise ConfigError(f"output_fmt='{output_fmt}' is not possible for a convolutional network; use 'NCHW'")
        some = indices if indices is None or isinstance(indices, int) else list(indices)
        taken, last = feature_take_indices(4, some)
        maps = []
        for index in range(last + 1 if stop_early else 4):
            x = self._step(index, x)
            if index in taken:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def _step(self, index: int, x: Tensor) -> Tensor:
        """The stem, which is 0, or a stage."""
        if index == 0:
            return self.relu(self.bn1(self.conv1(x)))  # type: ignore[no-any-return]
        stage = getattr(self, f"layer{index}")
        return checkpoint_seq(stage, x) if self.grad_checkpointing else stage(x)  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits, or the pooled features, of the last map."""
        x = nn.functional.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute what is within a block again in the backward pass, instead of keeping it."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns that sort parameters by depth: of stages, or of blocks."""
        return {"stem": r"^(?:conv|bn)1", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """The classifier, or its name."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new, random classifier in."""
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        self.num_classes = num_classes
        self.global_pool, fc = create_classifier(self.num_features, num_classes, pool_type=pool)
        self.fc = fc.to(self.conv1.weight).train(self.training)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()


def _host(name: str, **options: Any) -> nn.Module:  # noqa: ANN401  # timm's own
    """A network without attention, of timm's parts."""
    if name.endswith("_cifar"):
        return CifarResNetForTimm(int(name.removeprefix("resnet").removesuffix("_cifar")), **options)
    depth, _, form = name.removeprefix("resnext").removeprefix("resnet").partition("_")
    block: Any = BasicBlock if depth in ("18", "34") else Bottleneck
    grouped: dict[str, Any] = {"cardinality": 32, "base_width": 4} if form else {}
    return ResNet(block, _LAYERS[depth], **grouped, **options)


def _with_attention(name: str, attention_options: dict[str, Any] | None = None, **options: Any) -> nn.Module:  # noqa: ANN401
    host, attention = split_name(name)
    model = _host(host, **options)
    if attention == "sk":
        return use_selective_kernels(model, attention_options or {})
    return add_named(model, host, str(attention), attention_options or {})


def _entry(name: str) -> Callable[..., nn.Module]:
    """The function that timm calls to build a network."""

    def build(pretrained: bool = False, **options: Any) -> nn.Module:  # noqa: ANN401  # timm's own
        def model_of(**rest: Any) -> nn.Module:  # noqa: ANN401  # timm's own
            return _with_attention(name, **rest)

        levels = 4 if name.endswith("_cifar") else 5
        features = {"out_indices": tuple(range(levels))}
        return build_model_with_cfg(model_of, name, pretrained, feature_cfg=features, **options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"`{name}` for timm: its own options, and `attention_options` for the attention module."
    return build


def _description(name: str) -> dict[str, Any]:
    side = 32 if name.endswith("_cifar") else 224
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, side, side),
        "pool_size": (side // 4, side // 4) if side == 32 else (side // 32, side // 32),
        "crop_pct": 1.0 if side == 32 else 0.875,
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1",
        "classifier": "fc",
    }


_NAMES = [name for name in list_models("*_res*") if not is_model(name)]
default_cfgs = generate_default_cfgs({name: _description(name) for name in _NAMES})  # where timm looks for them
for _name in _NAMES:
    globals()[_name] = register_model(_entry(_name))
