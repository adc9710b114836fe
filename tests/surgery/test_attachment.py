from __future__ import annotations

import copy
import functools
import pickle

import pytest
import timm
import torch
import torchvision
from timm.layers import freeze_batch_norm_2d
from torch import nn
from torch.fx.experimental.optimization import fuse
from torchvision.models.feature_extraction import create_feature_extractor

import sgenet
from sgenet.surgery import attention_report

# A network for each way of attaching; res2net has wrapped norms, resnet50 at "post" wrapped blocks.
WAYS = {
    "slot": lambda: sgenet.add_attention(timm.create_model("resnet26", num_classes=5), "sge"),
    "block": lambda: sgenet.add_attention(torchvision.models.resnet18(num_classes=5), "sge"),
    "append": lambda: sgenet.add_attention(torchvision.models.mobilenet_v2(num_classes=5), "sge"),
    "before": lambda: sgenet.add_attention(timm.create_model("efficientnet_lite0", num_classes=5), "sge"),
    "after": lambda: sgenet.add_attention(timm.create_model("res2net50_26w_4s", num_classes=5), "sge"),
    "shortcut": lambda: sgenet.add_attention(torchvision.models.resnet18(num_classes=5), "sge", position="identity"),
    "wrapped-block": lambda: sgenet.add_attention(torchvision.models.resnet18(num_classes=5), "sge", position="post"),
}


@functools.cache
def drawn(way: str) -> nn.Module:
    """In eval mode, with attention that does something and norms that look trained."""
    torch.manual_seed(0)
    network = WAYS[way]()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, sgenet.SpatialGroupEnhance):
                module.weight.normal_()
            elif isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(params=WAYS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    """One for each test: weights take longer to draw than to copy."""
    return copy.deepcopy(drawn(request.param))


IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def attention_of(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, sgenet.SpatialGroupEnhance)]


def test_it_survives_the_conversion_of_norms(model):
    expected, count = model(IMAGES), len(attention_of(model))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)).eval()
    assert any(isinstance(m, nn.SyncBatchNorm) for m in converted.modules())
    assert len(attention_of(converted)) == count
    frozen = freeze_batch_norm_2d(copy.deepcopy(model))
    assert not any(type(m) is nn.BatchNorm2d for m in frozen.modules())
    assert len(attention_of(frozen)) == count
    torch.testing.assert_close(frozen(IMAGES), expected, rtol=1e-4, atol=1e-4)


def test_it_survives_fx_and_the_folding_of_norms(model):
    expected = model(IMAGES)
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(IMAGES), expected)
    folded = fuse(copy.deepcopy(model))
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) < sum(
        isinstance(m, nn.BatchNorm2d) for m in model.modules()
    )
    torch.testing.assert_close(folded(IMAGES), expected, rtol=1e-3, atol=1e-3)


def test_it_survives_deepcopy_pickle_and_save(model, tmp_path):
    expected = model(IMAGES)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(IMAGES), expected)
        assert attention_report(twin) == attention_report(model)
        assert list(twin.state_dict()) == list(model.state_dict())
    host = sgenet.remove_attention(copy.deepcopy(model))
    with torch.no_grad():
        for parameter in host.parameters():
            parameter.add_(1.0)
    path = sgenet.save(model, tmp_path / "net.safetensors")
    assert torch.equal(sgenet.load(path, model=host)(IMAGES), expected)


def test_keys_of_the_host_load_before_and_after(model):
    host = sgenet.remove_attention(copy.deepcopy(model))
    state = {k: v + 1 if v.is_floating_point() else v for k, v in host.state_dict().items()}
    result = model.load_state_dict(state, strict=False)
    assert result.unexpected_keys == []
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    names = tuple(f"{p.module}." for p in attention_report(model).placed)
    assert all(key.startswith(names) for key in set(model.state_dict()) - set(state))
    whole = model.state_dict()
    assert model.load_state_dict(whole, strict=True).missing_keys == []


# Compiling takes long: two ways stand for the others in `make test`.
COMPILED = [way if way in ("slot", "append") else pytest.param(way, marks=pytest.mark.slow) for way in WAYS]


@pytest.mark.parametrize("model", COMPILED, indirect=True)
def test_it_exports_and_compiles(model):
    expected = model(IMAGES)
    exported = torch.export.export(model, (IMAGES,)).module()
    torch.testing.assert_close(exported(IMAGES), expected, rtol=1e-4, atol=1e-4)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(IMAGES), expected, rtol=1e-4, atol=1e-4)


def test_half_precision_and_channels_last(model):
    expected = model(IMAGES)
    turned = copy.deepcopy(model).to(memory_format=torch.channels_last)
    torch.testing.assert_close(turned(IMAGES), expected, rtol=1e-3, atol=1e-3)
    assert copy.deepcopy(model).bfloat16()(IMAGES.bfloat16()).isfinite().all()


@pytest.mark.parametrize("position", ["residual", "post", "identity", "inner", "pre"])
def test_feature_extraction_goes_on_working(position):
    features = timm.create_model("resnet26", features_only=True).eval()
    shapes = [f.shape for f in features(IMAGES)]
    sgenet.add_attention(features, "sge", position=position)
    assert [f.shape for f in features(IMAGES)] == shapes
    assert len(attention_of(features)) == 8

    model = sgenet.add_attention(torchvision.models.resnet18(), "sge", position=position, keep_output=False).eval()
    extractor = create_feature_extractor(model, {"layer2": "a", "layer4": "b"})
    assert {k: v.shape for k, v in extractor(IMAGES).items()} == {"a": (2, 128, 8, 8), "b": (2, 512, 2, 2)}


def test_data_parallel_training_sees_every_weight(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        model = WAYS["after"]()
        parallel = nn.parallel.DistributedDataParallel(model)
        parallel(IMAGES).sum().backward()
        assert all(p.grad is not None for p in model.parameters())
    finally:
        torch.distributed.destroy_process_group()


class Gated(nn.Module):
    """A residual block whose branch ends in a module of its own that has something called attention."""

    def __init__(self) -> None:
        super().__init__()
        self.tail = nn.Module()
        self.tail.attention = nn.Conv2d(3, 3, 1)
        self.tail.forward = self.tail.attention.forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.tail(x)


def test_a_name_that_the_host_uses_is_not_taken():
    model = Gated()
    keys = set(model.state_dict())
    sgenet.add_attention(model, "sge", example=IMAGES)
    assert set(model.state_dict()) - keys == {f"tail.added_attention.{k}" for k in ("weight", "bias", "factor")}
    assert keys < set(model.state_dict())
    assert model.load_state_dict(model.state_dict()).missing_keys == []


def test_it_survives_the_merging_of_filters():
    model = sgenet.add_attention(timm.create_model("repvgg_a0", num_classes=5), "sge", keep_output=False).eval()
    merged = timm.utils.reparameterize_model(model)
    assert len(attention_of(merged)) == len(attention_of(model)) == 21
    torch.testing.assert_close(merged(IMAGES), model(IMAGES), rtol=1e-3, atol=1e-3)


def test_maps_of_channels_last_are_attended_by_channel():
    model = timm.create_model("mambaout_femto", num_classes=5).eval()
    plain = model(IMAGES)
    sgenet.add_attention(model, "se")
    torch.testing.assert_close(model(IMAGES), plain, rtol=1e-5, atol=1e-5)
    placed = attention_report(model).placed[0]
    assert placed.channels_last
    module = model.get_submodule(placed.module)
    assert module.channels == 48
    with torch.no_grad():
        module.fc2.bias[5] = -100.0  # closes one channel
    place = model.get_submodule(placed.place)
    output = place(torch.ones(1, 4, 4, 48))
    assert (output[..., 5] == 0).all()
    assert (output[..., 6] > 0).all()


def test_a_wrapped_module_of_another_architecture_is_refused_by_name():
    model = WAYS["after"]()
    state = model.state_dict()
    state["layer1.0.bn3.gamma"] = state.pop("layer1.0.bn3.weight")
    with pytest.raises(RuntimeError, match=r"Unexpected key.*layer1\.0\.bn3"):
        model.load_state_dict(state)


def test_keys_in_errors_are_those_of_the_host():
    model = sgenet.add_attention(torchvision.models.resnet18(), "sge", modules=["layer1.0", "layer1.0.conv1"])
    state = model.state_dict()
    state["layer1.0.conv1.gamma"] = state.pop("layer1.0.conv1.weight")
    result = model.load_state_dict(state, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["layer1.0.conv1.weight"], ["layer1.0.conv1.gamma"])
    state["layer1.0.conv1.weight"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r"size mismatch for layer1\.0\.conv1\.weight: "):
        model.load_state_dict(state)


def test_attributes_of_the_host_are_set_through_a_wrapper():
    model = sgenet.add_attention(torchvision.models.vgg11(num_classes=3), "sge", modules="features.0")
    wrapped = model.features[0]
    assert wrapped(IMAGES).shape == (2, 64, 64, 64)
    wrapped.stride = (2, 2)
    assert wrapped(IMAGES).shape == (2, 64, 32, 32)
    wrapped.weight, wrapped.bias = nn.Parameter(torch.zeros(64, 3, 3, 3)), None
    assert not wrapped(IMAGES).any()
    assert not model.state_dict()["features.0.weight"].any()
    assert "features.0.bias" not in model.state_dict()
    wrapped.attention = nn.Identity()  # the wrapper's own
    wrapped.training, wrapped.note = False, "mine"
    assert not [key for key in model.state_dict() if "attention" in key]
    host = wrapped.get_submodule("inner")
    assert (host.training, wrapped.note, hasattr(host, "note")) == (True, "mine", False)
