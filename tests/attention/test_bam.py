from __future__ import annotations

import pytest
import torch

import sgenet
from sgenet.errors import ConfigError


def normalised(norm, x, training):
    """Batch norm over everything but the channels, axis 1."""
    shape = (1, -1) + (1,) * (x.dim() - 2)
    if training:
        values = x.transpose(0, 1).flatten(1)
        mean, variance = values.mean(1), (values - values.mean(1, keepdim=True)).square().mean(1)
    else:
        mean, variance = norm.running_mean, norm.running_var
    centred = (x - mean.reshape(shape)) / torch.sqrt(variance + norm.eps).reshape(shape)
    return centred * norm.weight.reshape(shape) + norm.bias.reshape(shape)


def convolved(conv, x, dilation):
    """A convolution with zeros around the map, tap by tap."""
    _, _, height, width = x.shape
    out = conv.bias.reshape(1, -1, 1, 1).expand(len(x), -1, height, width).clone()
    middle = conv.weight.shape[-1] // 2
    for i in range(height):
        for j in range(width):
            for a in range(conv.weight.shape[2]):
                for b in range(conv.weight.shape[3]):
                    row, column = i + (a - middle) * dilation, j + (b - middle) * dilation
                    if 0 <= row < height and 0 <= column < width:
                        out[:, :, i, j] += x[:, :, row, column] @ conv.weight[:, :, a, b].T
    return out


def randomise(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("dilation", "convolutions"), [(4, 2), (2, 1), (1, 3), (4, 0)])
def test_formula_in_float64(training, dilation, convolutions):
    torch.manual_seed(0)
    module = sgenet.BottleneckAttention(12, 4, dilation, convolutions, dtype=torch.float64)
    randomise(module)
    x = torch.randn(3, 12, 6, 9, dtype=torch.float64)

    first, norm, _, last = module.channel
    means = torch.stack([torch.stack([c.sum() / c.numel() for c in sample]) for sample in x])
    hidden = torch.clamp(normalised(norm, means @ first.weight.T + first.bias, training), min=0)
    channel = hidden @ last.weight.T + last.bias

    spatial = x
    for k in range(convolutions + 1):
        conv, norm, _ = module.spatial[3 * k : 3 * k + 3]
        spatial = torch.clamp(normalised(norm, convolved(conv, spatial, dilation), training), min=0)
    spatial = convolved(module.spatial[-1], spatial, dilation)

    gate = 1 + 1 / (1 + torch.exp(-channel[:, :, None, None] * spatial))
    torch.testing.assert_close(module.train(training)(x), x * gate)


def test_parameters_of_resnet50_are_those_of_the_published_network():
    # 25,557,032 without and 25,915,099 with attention: every layer has a bias, those before a batch norm too
    modules = [sgenet.BottleneckAttention(width, device="meta") for width in (256, 512, 1024)]
    assert sum(p.numel() for module in modules for p in module.parameters()) == 25_915_099 - 25_557_032


def test_a_batch_of_one_image_is_trained_with_the_running_statistics_of_the_channels():
    torch.manual_seed(0)
    module = sgenet.BottleneckAttention(16, 4, dtype=torch.float64)
    randomise(module)
    before = module.channel[1].running_mean.clone(), module.spatial[1].running_mean.clone()
    x = torch.randn(1, 16, 5, 5, dtype=torch.float64, requires_grad=True)
    module(x).sum().backward()
    assert x.grad.isfinite().all()
    assert torch.equal(module.channel[1].running_mean, before[0])
    assert not torch.equal(module.spatial[1].running_mean, before[1])  # 25 positions are enough for these


@pytest.mark.parametrize("option", [{"reduction": 0}, {"dilation": 0}, {"convolutions": -1}])
def test_impossible_numbers_are_refused(option):
    ((name, value),) = option.items()
    with pytest.raises(ConfigError, match=f"{name}={value} is not possible; give"):
        sgenet.BottleneckAttention(64, **option)


def test_narrow_places_keep_four_hidden_channels():
    assert sgenet.BottleneckAttention.fit_options(32, {"dilation": 2}) == {"dilation": 2, "reduction": 8}
    assert sgenet.BottleneckAttention.fit_options(256, {}) == {"reduction": 16}
