from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

import sgenet
from sgenet.errors import ConfigError

FORMS = ["grouped", "dilated"]


def random_conv(*sizes: int, dtype: torch.dtype = torch.float32, **options: object) -> sgenet.SelectiveKernelConv:
    module = sgenet.SelectiveKernelConv(*sizes, **options, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for child in module.children():
            if isinstance(child, nn.BatchNorm2d):
                for tensor in (child.weight, child.bias, child.running_mean):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator))
                child.running_var.copy_(torch.rand(child.running_var.shape, generator=generator) + 0.5)
    return module


def normalised(bn: nn.BatchNorm2d, x: Tensor, training: bool) -> Tensor:
    mean, variance = (
        (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)) if training else (bn.running_mean, bn.running_var)
    )
    scaled = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    return scaled * bn.weight[:, None, None] + bn.bias[:, None, None]


def convolved(x: Tensor, weight: Tensor, stride: int, dilation: int, groups: int) -> Tensor:
    """A 3x3 convolution as nine shifted products, with a dense kernel in which other groups' weights are zero."""
    outputs, inputs = weight.shape[0], x.shape[1]
    dense = weight.new_zeros(outputs, inputs, 3, 3)
    for o in range(outputs):
        first = o // (outputs // groups) * (inputs // groups)
        dense[o, first : first + inputs // groups] = weight[o]
    padded = F.pad(x, [dilation] * 4)
    height, width = x.shape[2:]
    total = 0
    for i in range(3):
        for j in range(3):
            shifted = padded[:, :, i * dilation : i * dilation + height, j * dilation : j * dilation + width]
            total = total + torch.einsum("oc,bchw->bohw", dense[:, :, i, j], shifted)
    return total[:, :, ::stride, ::stride]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("form", "dilation", "first_groups"), [("grouped", 1, 1), ("dilated", 2, 32)])
def test_formula_in_float64(form, dilation, first_groups, stride, training):
    conv = random_conv(32, 64, stride, branches=form, dtype=torch.float64).train(training)
    x = torch.randn(3, 32, 6, 5, dtype=torch.float64)
    twin = copy.deepcopy(conv)
    y, weights = conv(x), twin.attention(x)

    first = normalised(conv.bn1, convolved(x, conv.conv1.weight, stride, 1, first_groups), training).clamp(min=0)
    second = normalised(conv.bn2, convolved(x, conv.conv2.weight, stride, dilation, 32), training).clamp(min=0)
    pooled = (first + second).mean((2, 3), keepdim=True)
    hidden = torch.einsum("oc,bcij->boij", conv.fc1.weight[:, :, 0, 0], pooled)
    hidden = normalised(conv.bn_fc1, hidden, training).clamp(min=0)
    scores = torch.einsum("oc,bc->bo", conv.fc2.weight[:, :, 0, 0], hidden[:, :, 0, 0])
    a, b = scores[:, :64].exp(), scores[:, 64:].exp()
    expected = torch.stack([a / (a + b), b / (a + b)], 1)[..., None, None]

    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(y, first * expected[:, 0] + second * expected[:, 1])


def parameters_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_sk_resnet50_of_the_sge_paper_has_597464_parameters_more_than_resnet50():
    replaced = sum(
        blocks * (parameters_of(sgenet.SelectiveKernelConv(planes)) - (9 * planes**2 + 2 * planes))
        for planes, blocks in [(64, 3), (128, 4), (256, 6), (512, 3)]
    )
    assert replaced == 26_154_496 - 25_557_032


def test_sknet50_has_27_5_million_parameters():
    with_sk, without = (
        sum(
            blocks * count(width)
            for width, blocks in [(128, 3), (256, 4), (512, 6), (1024, 3)]  # ResNeXt-50 32x4d
        )
        for count in (
            lambda width: parameters_of(sgenet.SelectiveKernelConv(width, branches="dilated")),
            lambda width: 9 * width * width // 32 + 2 * width,
        )
    )
    assert round((25_028_904 + with_sk - without) / 1e6, 1) == 27.5


def test_the_hidden_layer_has_32_units_at_least_where_the_branches_are_dilated():
    assert sgenet.SelectiveKernelConv(64).fc1.weight.shape[0] == 4
    assert sgenet.SelectiveKernelConv(64, branches="dilated").fc1.weight.shape[0] == 32
    assert sgenet.SelectiveKernelConv(1024, branches="dilated").fc1.weight.shape[0] == 64
    assert sgenet.SelectiveKernelConv(64, reduction=4).fc1.weight.shape[0] == 16


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(14, 14), (5, 9), (1, 1)])
def test_shape_memory_format_and_weights_that_sum_to_one(form, layout, size):
    conv = random_conv(32, branches=form).eval()
    x = torch.randn(2, 32, *size).contiguous(memory_format=layout)
    y, weights = conv(x), conv.attention(x)
    assert y.shape == x.shape
    assert y.is_contiguous(memory_format=layout)
    assert weights.shape == (2, 2, 32, 1, 1)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 32, 1, 1))


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [1, 4])
def test_one_image_and_none_have_finite_values_and_gradients(size, training, batch):
    conv = random_conv(32).train(training)
    x = torch.randn(batch, 32, size, size, requires_grad=True)
    y = conv(x)
    y.square().sum().backward()
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert all(tensor.grad.isfinite().all() for tensor in (x, *conv.parameters()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_and_stays_finite_at_activations_of_1e3(dtype):
    conv = sgenet.SelectiveKernelConv(32, dtype=dtype).eval()
    x = torch.randn(2, 32, 9, 9).mul(1e3).to(dtype)
    y = conv(x)
    assert y.dtype == dtype
    assert y.isfinite().all()


def test_gradients_agree_with_finite_differences():
    conv = random_conv(4, groups=(1, 2), reduction=2, dtype=torch.float64)
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    parameters = dict(conv.named_parameters())

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(conv, dict(zip(parameters, values, strict=True)), (x,))

    for training in (True, False):
        conv.train(training)
        assert torch.autograd.gradcheck(call, (x, *parameters.values()))


def test_compiles_and_exports_for_any_batch_and_size():
    conv = random_conv(32).eval()
    dynamic = torch.export.Dim.DYNAMIC
    torch.compiler.reset()
    compiled = torch.compile(conv, fullgraph=True, dynamic=True, backend="aot_eager")
    program = torch.export.export(
        conv, (torch.randn(2, 32, 8, 7),), dynamic_shapes={"x": {0: dynamic, 2: dynamic, 3: dynamic}}
    ).module()
    for shape in [(2, 7, 7), (3, 5, 9)]:
        x = torch.randn(shape[0], 32, *shape[1:])
        for run in (compiled, program):
            torch.testing.assert_close(run(x), conv(x), rtol=1e-5, atol=1e-5)


def test_device_and_dtype_arguments_reach_every_parameter_and_buffer():
    conv = sgenet.SelectiveKernelConv(32, device="meta", dtype=torch.float64)
    tensors = [*conv.parameters(), *conv.buffers()]
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert all(tensor.dtype == torch.float64 for tensor in tensors if tensor.is_floating_point())


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((0,), {}, "in_channels=0 is not possible"),
        ((64, -1), {}, "out_channels=-1 is not possible"),
        ((64, 64, 0), {}, "stride=0 is not possible"),
        ((64,), {"reduction": 0}, "reduction=0 is not possible"),
        ((48,), {}, "48 channels cannot be split into 32 groups"),
        ((64, 48), {}, "48 channels cannot be split into 32 groups"),
        ((16,), {"groups": (3, 4)}, "16 channels cannot be split into 3 groups"),
        ((64,), {"branches": "dilate"}, "branches='dilate' is not known. Did you mean 'dilated'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, options, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        sgenet.SelectiveKernelConv(*sizes, **options)


@pytest.mark.parametrize("shape", [(2, 31, 7, 7), (2, 32, 7), (32, 7, 7)])
def test_input_that_does_not_fit_is_refused(shape):
    conv = sgenet.SelectiveKernelConv(32)
    for call in (conv, conv.attention):
        with pytest.raises(ConfigError, match=r"takes \(batch, 32, height, width\), not a tensor of shape"):
            call(torch.randn(shape))


def test_the_name_sk_says_why_it_cannot_be_inserted_and_what_has_it():
    for call in (lambda: sgenet.create_attention("sk", 64), lambda: sgenet.add_attention(nn.Conv2d(3, 3, 3), "sk")):
        with pytest.raises(ConfigError, match=r"'sk' cannot be put into .* replaces 3x3 convolutions.*sk_resnet50"):
            call()
    assert "sk" not in sgenet.list_attention()


def test_fx_traces_it_and_folds_its_norms():
    module = sgenet.SelectiveKernelConv(32).train()
    x = torch.randn(4, 32, 6, 6)
    module(x)
    for mode in (True, False):
        module.train(mode)
        torch.testing.assert_close(torch.fx.symbolic_trace(module)(x), module(x))
    folded = fuse(module)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(folded(x), module(x), rtol=1e-4, atol=1e-5)
