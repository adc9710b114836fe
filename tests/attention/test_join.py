"""The end of a residual block by one call: the same values, gradients and statistics as module by module."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

import sgenet
from sgenet import ops
from sgenet.surgery.blocks import with_attention

BACKENDS = [name for name in ("reference", "cpu") if ops.availability()[name] is None]
NCHW, NHWC = torch.contiguous_format, torch.channels_last
MODULES = [
    ("sge", {"groups": 4}),
    ("sge", {"groups": 4, "normalize": False}),
    ("se", {"reduction": 4}),
    ("se", {"reduction": 4, "squeeze": "max"}),
    ("se", {"reduction": 4, "squeeze": "none"}),
    ("cbam", {"reduction": 4}),
    ("eca", {}),
    ("none", {}),
]

OPTIONS = {"sge": {"groups": 4}, "se": {"reduction": 4}, "simam": {}}


@pytest.fixture(params=BACKENDS)
def backend(request):
    with ops.use_backend(request.param):
        yield request.param


def drawn(*shape, layout=NCHW, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).contiguous(memory_format=layout)


def parts(name, options, seed=0):
    """A module and a norm in front of it, with nothing left at its start."""
    torch.manual_seed(seed)
    attention, norm = sgenet.create_attention(name, 16, **options), nn.BatchNorm2d(16)
    for parameter in [*attention.parameters(), *norm.parameters()]:
        nn.init.normal_(parameter)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return nn.ModuleList([attention, norm])


def one_by_one(attention, x, residual, norm):
    return F.relu(attention(x if norm is None else norm(x)) + residual)


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize(("name", "options"), MODULES)
def test_values_gradients_and_statistics_are_the_same(backend, name, options, with_norm, training, layout):
    modules = parts(name, options).train(training)
    others = copy.deepcopy(modules)
    inputs = [drawn(3, 16, 5, 6, layout=layout, seed=seed).requires_grad_() for seed in (0, 1)]
    exact = [t.detach().clone().requires_grad_() for t in inputs]
    y = modules[0].join(*inputs, modules[1] if with_norm else None)
    expected = one_by_one(others[0], *exact, others[1] if with_norm else None)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=2e-5)
    assert y.stride() == expected.stride()
    grad = drawn(3, 16, 5, 6, layout=layout, seed=2)
    y.backward(grad)
    expected.backward(grad)
    pairs = [*zip(inputs, exact, strict=True), *zip(modules.parameters(), others.parameters(), strict=True)]
    for own, other in pairs:
        assert (own.grad is None) == (other.grad is None)
        if own.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=2e-4)
    for own, other in zip(modules.buffers(), others.buffers(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize(("name", "options"), MODULES)
def test_without_gradients_the_values_are_the_same(backend, name, options, with_norm, training, layout):
    modules = parts(name, options).train(training)
    x, residual = drawn(3, 16, 5, 6, layout=layout), drawn(3, 16, 5, 6, layout=layout, seed=1)
    kept = residual.clone()
    others = copy.deepcopy(modules)
    with torch.inference_mode():
        expected = one_by_one(others[0], x, residual, others[1] if with_norm else None)
        y = modules[0].join(x.clone(memory_format=torch.preserve_format), residual, modules[1] if with_norm else None)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=2e-5)
    assert torch.equal(residual, kept)
    for own, other in zip(modules.buffers(), others.buffers(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_move_as_torch_moves_them(backend, momentum):
    attention, norm = parts("sge", {"groups": 4})
    norm.momentum = momentum
    other = copy.deepcopy(norm)
    for seed in range(3):
        x = drawn(2, 16, 3, 5, seed=seed) * 3 + 1
        attention.join(x, x.flip(0), norm).sum().backward()
        other(x)
    assert norm.num_batches_tracked == other.num_batches_tracked == 3
    torch.testing.assert_close(norm.running_mean, other.running_mean)
    torch.testing.assert_close(norm.running_var, other.running_var)


def test_one_value_a_channel_is_refused_as_torch_refuses_it(backend):
    attention, norm = parts("sge", {"groups": 4})
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        attention.join(drawn(1, 16, 1, 1), drawn(1, 16, 1, 1), norm)


def saved_bytes(function) -> int:
    """Bytes that autograd keeps for the backward pass, each memory once, without parameters."""
    kept = {}

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    del result
    return sum(kept.values())


@pytest.mark.skipif("cpu" not in BACKENDS, reason="in plain torch the norm stays a step of its own")
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_training_keeps_no_more_for_the_backward_pass_than_a_plain_block(block, held):
    """With norms that learn their statistics, and with norms that keep them, as in detectors."""
    plain = block(64, 64 // block.expansion)
    for module in plain.modules():
        module.train(not (held and isinstance(module, nn.BatchNorm2d)))
    attended = with_attention(copy.deepcopy(plain), sgenet.SpatialGroupEnhance(64, groups=16))
    x = drawn(4, 64, 28, 28, layout=NHWC).requires_grad_()
    expected = saved_bytes(lambda: plain(x))
    with ops.use_backend("cpu"):
        assert saved_bytes(lambda: attended(x)) <= 1.02 * expected
    with ops.use_backend("reference"):
        assert saved_bytes(lambda: attended(x)) > 1.1 * expected


@pytest.mark.parametrize("cls", [BasicBlock, Bottleneck])
def test_a_hook_on_a_part_of_the_end_sees_what_passes(cls):
    block = with_attention(cls(16, 16 // cls.expansion), sgenet.SpatialGroupEnhance(16, groups=4)).eval()
    x = drawn(2, 16, 5, 5)
    with torch.no_grad():
        expected = block(x)
        norm = "bn3" if hasattr(block, "bn3") else "bn2"
        for name in (norm, "attention", "relu"):
            seen = []
            handle = block.get_submodule(name).register_forward_hook(lambda m, i, o, seen=seen: seen.append(o))
            torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)
            handle.remove()
            assert seen, name


def test_another_activation_or_norm_in_a_block_is_used():
    block = with_attention(BasicBlock(16, 16), sgenet.SpatialGroupEnhance(16, groups=4)).eval()
    x = drawn(2, 16, 5, 5)
    for name, module in (("relu", nn.SiLU()), ("bn2", nn.GroupNorm(4, 16))):
        changed = copy.deepcopy(block)
        setattr(changed, name, module)
        branch = changed.bn2(changed.conv2(changed.relu(changed.bn1(changed.conv1(x)))))
        expected = changed.relu(changed.attention(branch) + x)
        torch.testing.assert_close(changed(x), expected, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(changed(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cls", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("name", ["sge", "se"])
def test_what_a_hook_on_the_last_convolution_keeps_is_not_written_over(name, cls):
    block = with_attention(cls(16, 16 // cls.expansion), sgenet.create_attention(name, 16, **OPTIONS[name])).eval()
    last, seen = (block.conv2 if cls is BasicBlock else block.conv3), []
    x = drawn(2, 16, 6, 6)
    with torch.no_grad():
        plain = block(x)
        last.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
        hooked = block(x)
        ((came_in, kept),) = seen
        torch.testing.assert_close(kept, F.conv2d(came_in, last.weight, padding=last.padding))
    torch.testing.assert_close(hooked, plain)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["sge", "se", "simam"])
def test_a_block_has_derivatives_along_a_direction(name, training, frozen):
    torch.manual_seed(0)
    block = with_attention(BasicBlock(16, 16), sgenet.create_attention(name, 16, **OPTIONS[name])).train(training)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    block.requires_grad_(not frozen)
    x, direction = drawn(2, 16, 5, 6), drawn(2, 16, 5, 6, seed=1)
    exact = copy.deepcopy(block).double().requires_grad_(False)
    step = 1e-6
    with ops.use_backend("reference"):
        ends = [exact(x.double() + sign * step * direction.double()) for sign in (1, -1)]
    slope = ((ends[0] - ends[1]) / (2 * step)).float()
    if not training:  # torch's own batch norm refuses to move its statistics there
        _, along = torch.func.jvp(block, (x,), (direction,))
        torch.testing.assert_close(along.detach(), slope, rtol=1e-3, atol=1e-4)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(block(forward_ad.make_dual(x, direction)))
        torch.testing.assert_close(dual.tangent.detach(), slope, rtol=1e-3, atol=1e-4)


def test_every_image_has_its_own_gradients():
    torch.manual_seed(0)
    network = sgenet.create_model("sge_resnet8_cifar", 5).eval()
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    images, labels = drawn(3, 3, 16, 16), torch.tensor([1, 0, 4])

    def loss(values, image, label):
        return F.cross_entropy(torch.func.functional_call(network, values, (image[None],)), label[None])

    found = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, images, labels)
    for index in range(3):
        network.zero_grad()
        F.cross_entropy(network(images[index : index + 1]), labels[index : index + 1]).backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(found[name][index], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize(("name", "options"), MODULES)
def test_under_autocast_gradients_do_not_change_the_dtype(name, options, with_norm):
    attention, norm = parts(name, options).eval()
    residual = drawn(2, 16, 5, 6, seed=1)
    found = {}
    for wanted in (False, True):
        x = drawn(2, 16, 5, 6).bfloat16().requires_grad_(wanted)
        with torch.set_grad_enabled(wanted), torch.autocast("cpu", torch.bfloat16):
            found[wanted] = attention.join(x, residual, norm if with_norm else None)
    assert found[False].dtype == found[True].dtype == torch.float32
    torch.testing.assert_close(found[False], found[True].detach(), rtol=2e-2, atol=2e-2)
