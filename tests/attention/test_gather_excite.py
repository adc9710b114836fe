from __future__ import annotations

import copy
import itertools

import pytest
import torch

import sgenet
from sgenet.errors import ConfigError

RESNET50_BLOCKS = [(256, 56)] * 3 + [(512, 28)] * 4 + [(1024, 14)] * 6 + [(2048, 7)] * 3


def sigmoid(value):
    return 1 / (1 + torch.exp(-value))


def mean_around(x, centre, extent):
    """Mean over the positions less than `extent` away from `centre` in every axis, inside the map: (B, C)."""
    box = tuple(slice(max(0, c - extent + 1), c + extent) for c in centre)
    return x[(slice(None), slice(None), *box)].flatten(2).mean(2)


def resized(gathered, size):
    """Nearest neighbour: position i of n takes value floor(i h / n) of h."""
    for axis, n in enumerate(size, start=2):
        indices = [i * gathered.shape[axis] // n for i in range(n)]
        gathered = torch.stack([gathered.select(axis, i) for i in indices], dim=axis)
    return gathered


@pytest.mark.parametrize("spatial", [(8, 8), (5, 9), (1, 1), (7,), (16, 3), (3, 4, 5), (2, 1, 6)])
@pytest.mark.parametrize("extent", [2, 4, 8])
def test_theta_minus_with_an_extent_in_float64(spatial, extent):
    x = torch.randn(2, 3, *spatial, dtype=torch.float64)
    cells = [-(-n // extent) for n in spatial]
    gathered = torch.zeros(2, 3, *cells, dtype=torch.float64)
    for cell in itertools.product(*(range(n) for n in cells)):
        gathered[(slice(None), slice(None), *cell)] = mean_around(x, [extent * c for c in cell], extent)
    module = sgenet.GatherExcite(3, extent)
    torch.testing.assert_close(module(x), x * sigmoid(resized(gathered, spatial)))


def test_theta_minus_of_the_whole_map_in_float64():
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    expected = torch.stack([torch.stack([c * sigmoid(c.sum() / 20) for c in sample]) for sample in x])
    torch.testing.assert_close(sgenet.GatherExcite(3)(x), expected)


def depthwise(conv, x, stride, padding):
    """A depthwise convolution without bias, with zeros around the map."""
    _, _, height, width = x.shape
    rows, columns = conv.weight.shape[2:]
    out_height, out_width = ((n + 2 * padding - k) // stride + 1 for n, k in ((height, rows), (width, columns)))
    out = torch.zeros(*x.shape[:2], out_height, out_width, dtype=x.dtype)
    for i, j, a, b in itertools.product(range(out_height), range(out_width), range(rows), range(columns)):
        row, column = stride * i + a - padding, stride * j + b - padding
        if 0 <= row < height and 0 <= column < width:
            out[:, :, i, j] += x[:, :, row, column] * conv.weight[:, 0, a, b]
    return out


def normalised(norm, x, training):
    mean, variance = norm.running_mean, norm.running_var
    if training:
        values = x.transpose(0, 1).flatten(1)
        mean, variance = values.mean(1), values.var(1, correction=0)
    mean, variance, weight, bias = (t.reshape(1, -1, 1, 1) for t in (mean, variance, norm.weight, norm.bias))
    return (x - mean) / torch.sqrt(variance + norm.eps) * weight + bias


def randomise(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return module


def mixed(excite, x):
    """ReLU, 1x1 convolution, ReLU, 1x1 convolution."""
    _, down, _, up = excite
    for conv in (down, up):
        x = torch.einsum("bchw,oc->bohw", torch.clamp(x, min=0), conv.weight[:, :, 0, 0])
        x = x + conv.bias.reshape(1, -1, 1, 1)
    return x


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", ["theta", "theta-plus"])
@pytest.mark.parametrize("extent", [2, 4, 8])
def test_theta_with_an_extent_in_float64(training, variant, extent):
    torch.manual_seed(0)
    module = randomise(sgenet.GatherExcite(6, extent, variant, reduction=2, dtype=torch.float64))
    x = torch.randn(3, 6, 11, 9, dtype=torch.float64)
    gathered = x
    steps = {2: 1, 4: 2, 8: 3}[extent]
    for k in range(steps):
        gathered = torch.clamp(gathered, min=0) if k else gathered
        conv, norm = module.gather[3 * k : 3 * k + 2]
        gathered = normalised(norm, depthwise(conv, gathered, stride=2, padding=1), training)
    assert len(module.gather) == 3 * steps - 1
    if variant == "theta-plus":
        gathered = mixed(module.excite, gathered)
    torch.testing.assert_close(module.train(training)(x), x * sigmoid(resized(gathered, (11, 9))))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", ["theta", "theta-plus"])
def test_theta_of_the_whole_map_in_float64(training, variant):
    torch.manual_seed(0)
    module = randomise(sgenet.GatherExcite(6, 0, variant, size=(5, 4), reduction=2, dtype=torch.float64))
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    conv, norm = module.gather
    gathered = normalised(norm, depthwise(conv, x, stride=1, padding=0), training)
    if variant == "theta-plus":
        gathered = mixed(module.excite, gathered)
    assert gathered.shape == (3, 6, 1, 1)
    torch.testing.assert_close(module.train(training)(x), x * sigmoid(gathered))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", ["theta", "theta-plus"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_theta_of_the_whole_map_keeps_dtype_layout_and_identity(training, variant, dtype):
    module = sgenet.GatherExcite(32, 0, variant, size=(5, 4))
    module.start_as_identity()
    module.to(dtype).train(training)
    for batch in (0, 1, 2):
        x = torch.randn(batch, 32, 5, 4).to(dtype, memory_format=torch.channels_last)
        y = module(x)
        assert torch.equal(y, x)
        assert (y.dtype, y.stride()) == (dtype, x.stride())


def test_theta_of_the_whole_map_exports_with_a_dynamic_batch_and_compiles():
    module = randomise(sgenet.GatherExcite(8, 0, "theta-plus", size=6, reduction=2)).eval()
    x = torch.randn(2, 8, 6, 6)
    program = torch.export.export(module, (x,), dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}}).module()
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="aot_eager")
    for batch in (1, 2, 5):
        x = torch.randn(batch, 8, 6, 6)
        torch.testing.assert_close(program(x), module(x))
        torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize(("variant", "millions"), [("theta-minus", 25.6), ("theta", 31.2), ("theta-plus", 33.7)])
def test_parameters_of_resnet50(variant, millions):
    """The paper's figures are met if, as in Caffe, the running statistics count; the network itself has 53,120."""
    count = 25_557_032 + 53_120
    for width, size in RESNET50_BLOCKS:
        fixed = {} if variant == "theta-minus" else {"size": size}
        module = sgenet.GatherExcite(width, 0, variant, **fixed, device="meta")
        of_module = sum(p.numel() for p in module.parameters())
        gather, excite = width * size**2 + 2 * width, 2 * width * (width // 16) + width // 16 + width
        assert of_module == {"theta-minus": 0, "theta": gather, "theta-plus": gather + excite}[variant]
        count += of_module + sum(b.numel() for name, b in module.named_buffers() if "running" in name)
    assert round(count / 1e6, 1) == millions


def test_parameters_with_an_extent():
    assert sum(p.numel() for p in sgenet.GatherExcite(64, 8, "theta").parameters()) == 3 * (9 * 64 + 2 * 64)


@pytest.mark.parametrize("extent", [-2, 1, 3, 6, 12])
def test_an_extent_that_is_no_power_of_two_is_refused(extent):
    with pytest.raises(ConfigError, match=f"extent={extent} is not possible; give 2, 4, 8, ..., or 0"):
        sgenet.GatherExcite(64, extent)


def test_an_unknown_variant_is_answered_with_a_near_one():
    with pytest.raises(ConfigError, match=r"no variant 'teta-plus'\. Did you mean 'theta-plus'"):
        sgenet.GatherExcite(64, 0, "teta-plus")


@pytest.mark.parametrize("variant", ["theta", "theta-plus"])
def test_the_whole_map_needs_its_size(variant):
    with pytest.raises(
        ConfigError, match=rf"extent=0 with variant '{variant}' needs size=, the map's height and width"
    ):
        sgenet.GatherExcite(64, 0, variant)
    with pytest.raises(ConfigError, match=r"size=\(0, 7\) is not possible"):
        sgenet.GatherExcite(64, 0, variant, size=(0, 7))


@pytest.mark.parametrize(("extent", "variant"), [(0, "theta-minus"), (4, "theta"), (2, "theta-minus")])
def test_a_size_given_in_vain_is_refused(extent, variant):
    with pytest.raises(ConfigError, match=f"size=7 is for extent=0 .* not for extent={extent} .*; leave it out"):
        sgenet.GatherExcite(64, extent, variant, size=7)


@pytest.mark.parametrize("shape", [(2, 8, 7, 5), (2, 8, 8, 8), (2, 8, 1, 1)])
def test_a_map_of_another_size_is_refused(shape):
    module = sgenet.GatherExcite(8, 0, "theta", size=7)
    with pytest.raises(
        ConfigError, match=r"GatherExcite\(8, size=\(7, 7\)\) takes maps of that height and width, not a"
    ):
        module(torch.zeros(shape))


@pytest.mark.parametrize("axes", [1, 3])
def test_convolutions_take_two_axes_alone(axes):
    with pytest.raises(ConfigError, match=r"takes \(batch, 8, height, width\)"):
        sgenet.GatherExcite(8, 2, "theta")(torch.zeros(2, 8, *(4,) * axes))


def test_narrow_places_keep_four_hidden_channels_where_there_are_any():
    fit = sgenet.GatherExcite.fit_options
    assert fit(32, {"variant": "theta-plus", "extent": 2}) == {"variant": "theta-plus", "extent": 2, "reduction": 8}
    assert fit(32, {"variant": "theta"}) == {"variant": "theta"}
    assert fit(32, {}) == {}


def test_a_convolution_over_the_whole_map_takes_the_places_size():
    fit = sgenet.GatherExcite.fit_options
    assert fit(32, {"variant": "theta"}, (7, 5))["size"] == [7, 5]
    assert "size" not in fit(32, {"variant": "theta", "extent": 4}, (7, 5))
    assert "size" not in fit(32, {}, (7, 5))
    assert fit(32, {"variant": "theta", "size": 3}, (7, 5))["size"] == 3


def test_repr_names_the_variant_and_a_fixed_size():
    assert repr(sgenet.GatherExcite(8, 4)) == "GatherExcite(8, extent=4, variant='theta-minus')"
    assert "8, extent=0, variant='theta', size=(7, 5)" in repr(sgenet.GatherExcite(8, 0, "theta", size=(7, 5)))
