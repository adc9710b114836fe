"""The promises that every attention module keeps. A module joins by one line in CASES."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sgenet
from sgenet.attention import Attention
from sgenet.errors import ConfigError


class Case(NamedTuple):
    """A module under test.

    Attributes:
        axes: The numbers of spatial axes that it takes.
        batch_norm: Whether it has batch norms, so that train and eval mode differ.
        spread: Standard deviation of the random parameters, less where 1 would make rounding in half precision large.
        unseen: Biases in front of a batch norm, which subtracts them again: they learn in eval mode alone.
        exported: The least height and width of an exported program. torch.export settles whether a strided layer leaves
            one position or more, so that a program for many sizes is one for those that leave more.
    """

    name: str
    options: dict[str, Any] = {}  # noqa: RUF012  # never changed
    channels: int = 32
    axes: tuple[int, ...] = (1, 2, 3)
    batch_norm: bool = False
    spread: float = 1.0
    unseen: tuple[str, ...] = ()
    exported: int = 1


BAM = Case("bam", axes=(2,), batch_norm=True, spread=0.5, unseen=("channel.0.bias", "spatial.0.bias", "spatial.3.bias"))

CASES = [
    Case("se"),
    Case("se", {"reduction": 4, "bias": False}),
    Case("se", {"squeeze": "max", "reduction": 2}, spread=0.5),
    Case("se", {"squeeze": "none"}),
    Case("se", {"excitation": "tanh"}, spread=0.5),
    Case("se", {"excitation": "relu"}, spread=0.5),
    Case("sge", {"groups": 8}),
    Case("sge", {"groups": 1}),
    Case("sge", {"groups": 32}),
    Case("sge", {"groups": 8, "normalize": False, "initial_weight": 0.5, "initial_bias": -0.3}),
    Case("eca"),
    Case("eca", {"kernel_size": 7}),
    Case("srm", batch_norm=True),
    Case("simam"),
    Case("simam", {"e_lambda": 0.1}),
    Case("none"),
    Case("cbam", axes=(2,), batch_norm=True),
    Case("cbam", {"reduction": 4, "kernel_size": 3, "bias": False}, axes=(2,), batch_norm=True),
    BAM._replace(unseen=(*BAM.unseen, "spatial.6.bias")),
    BAM._replace(options={"reduction": 4, "dilation": 2, "convolutions": 1}),
    Case("ge"),
    Case("ge", {"extent": 2}, exported=3),
    Case("ge", {"extent": 8}, exported=9),
    Case("ge", {"extent": 2, "variant": "theta"}, axes=(2,), batch_norm=True, exported=3),
    Case("ge", {"extent": 4, "variant": "theta-plus"}, axes=(2,), batch_norm=True, exported=5),
    Case("gc", spread=0.5),
    Case("gc", {"reduction": 4}, spread=0.5),
    Case("gc", {"reduction": 4, "fusion": "mul"}, spread=0.5),
]

DYNAMIC = torch.export.Dim.DYNAMIC


def name_of(case: Case) -> str:
    return f"{case.name}-{'-'.join(map(str, case.options.values()))}"


def with_maps(*maps: tuple[int, ...]) -> pytest.MarkDecorator:
    """Every case with each of the maps that has a number of axes it takes."""
    pairs = [(case, spatial) for case in CASES for spatial in maps if len(spatial) in case.axes]
    return pytest.mark.parametrize(
        ("case", "spatial"), pairs, ids=[f"{name_of(case)}-{'x'.join(map(str, spatial))}" for case, spatial in pairs]
    )


def with_modes(function: Callable[..., None]) -> Callable[..., None]:
    """Every case in train mode, and those in which eval mode is something else in that too."""
    pairs = [(case, training) for case in CASES for training in ((True, False) if case.batch_norm else (True,))]
    ids = [f"{name_of(case)}-{'train' if training else 'eval'}" for case, training in pairs]
    return pytest.mark.parametrize(("case", "training"), pairs, ids=ids)(function)


def one_of_each(function: Callable[..., None]) -> Callable[..., None]:
    """The first case of every module; the others with the slow tests."""
    first = {case.name: i for i, case in reversed(list(enumerate(CASES)))}
    marks = [() if first[case.name] == i else (pytest.mark.slow,) for i, case in enumerate(CASES)]
    cases = [pytest.param(case, id=name_of(case), marks=own) for case, own in zip(CASES, marks, strict=True)]
    return pytest.mark.parametrize("case", cases)(function)


@pytest.fixture(params=CASES, ids=name_of)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def create(case: Case, **more: Any) -> Attention:
    return sgenet.create_attention(case.name, case.channels, **case.options, **more)


def create_random(case: Case, **more: Any) -> Attention:
    """A module whose parameters and running statistics are all random, so that an initial zero hides nothing."""
    module = create(case, **more)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(case.spread * values)
        for name, buffer in module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                values = torch.rand(buffer.shape, generator=generator, dtype=torch.float64)
                buffer.copy_(values + 0.5 if name.endswith("var") else values)
    return module


def sample(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@with_maps((7,), (7, 7), (14, 14), (5, 9), (1, 6), (1, 1), (3, 4, 5))
def test_output_is_input_times_gate_within_its_range(case, spatial):
    module = create_random(case, dtype=torch.float64)
    x = sample(2, case.channels, *spatial, dtype=torch.float64)
    for training in (True, False):
        module.train(training)
        gate = module.gate(x)
        if module.gate_range is None:  # no gate, but the share of each position in what is looked at
            assert gate.min() >= 0
            torch.testing.assert_close(gate.flatten(1).sum(1), torch.ones(2, dtype=torch.float64))
            assert gate.shape == (2, 1, *spatial)
            continue
        torch.testing.assert_close(module(x), x * gate, rtol=1e-12, atol=1e-12)
        low, high = module.gate_range
        assert low <= gate.min()
        assert gate.max() <= high  # the sigmoid rounds to 1


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float16, 4e-3), (torch.bfloat16, 4e-2), (torch.float32, 2e-5), (torch.float64, 1e-12)],
)
@with_modes
def test_dtype_is_kept_and_agrees_with_float64(case, training, dtype, tolerance):
    module = create_random(case, dtype=dtype).train(training)
    batch = 8 if case.batch_norm and training else 2  # two values with mean 0 and deviation 1 are -1 and 1, or rounding
    x = sample(batch, case.channels, 6, 6, dtype=dtype)
    y = module(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), copy.deepcopy(module).double()(x.double()), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 7, 112])
@with_modes
def test_half_precision_stays_finite_at_activations_of_1e3(case, training, dtype, size):
    x = (sample(1, case.channels, size, size) + 1.0).mul(1e3).to(dtype)
    module = create(case, dtype=dtype).train(training)
    unbounded = module.gate_range is not None and module.gate_range[1] == torch.inf
    y = module.gate(x) if unbounded else module(x)  # times a large gate it is more than a float16 can be
    assert y.isfinite().all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 7, 7), (3, 4, 9), (2, 5, 1), (1, 1, 1)])
def test_memory_format_is_kept(case, layout, shape):
    batch, height, width = shape
    x = sample(batch, case.channels, height, width).contiguous(memory_format=layout)
    assert create_random(case)(x).stride() == x.stride()


def test_result_does_not_depend_on_memory_format(case):
    module, x = create_random(case), sample(2, case.channels, 7, 5)
    padded = torch.zeros(2, 2 * case.channels, 9, 6)
    padded[:, ::2, 1:8, :5] = x
    layouts = {
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "sliced": padded[:, ::2, 1:8, :5],
    }
    for layout, other in layouts.items():
        torch.testing.assert_close(module(other), module(x), rtol=1e-5, atol=1e-6, msg=layout)
    expanded = x[:, :, :1].expand(-1, -1, 6, -1)
    torch.testing.assert_close(module(expanded), module(expanded.contiguous()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spatial", [(7, 7), (1, 1)])
@with_modes
def test_empty_batch(case, training, spatial):
    module, x = create(case).train(training), torch.zeros(0, case.channels, *spatial, requires_grad=True)
    before = copy.deepcopy(module.state_dict())
    y = module(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert x.grad.shape == x.shape
    statistics = [name for name in before if "running" in name]
    assert all(torch.equal(module.state_dict()[name], before[name]) for name in statistics)


@pytest.mark.parametrize("spatial", [(1, 1), (4, 4), (7, 7)])
@pytest.mark.parametrize("value", [0.0, 1e-6, 13.7, 1e3])
@with_modes
def test_constant_maps_have_finite_values_and_gradients(case, training, spatial, value):
    module = create_random(case).train(training)
    x = torch.full((2, case.channels, *spatial), value, requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert y.isfinite().all()
    for tensor in (x, *module.parameters()):
        assert tensor.grad.isfinite().all()


@settings(max_examples=15)
@given(
    index=st.sampled_from(range(len(CASES))),
    batch=st.integers(1, 4),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    scale=st.floats(1e-3, 1e3),
)
def test_any_map_gives_finite_values_of_its_shape(index, batch, height, width, scale):
    case = CASES[index]
    x = (sample(batch, case.channels, height, width) * scale).requires_grad_()
    y = create_random(case)(x)
    y.square().mean().backward()
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


def test_one_value_a_channel_is_normalised_with_the_running_statistics(case):
    module, x = create_random(case), sample(1, case.channels, *(1,) * case.axes[0])
    running = copy.deepcopy(dict(module.named_buffers()))
    y = module.train()(x)
    assert torch.equal(y, module.eval()(x))
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, running[name]), name


def test_samples_do_not_see_each_other(case):
    module, x = create_random(case).eval(), sample(3, case.channels, 6, 6)
    torch.testing.assert_close(module(x)[1:2], module(x[1:2]), rtol=1e-5, atol=1e-6)


@with_maps((4, 3), (5,), (1, 1))
def test_gradients_agree_with_finite_differences(case, spatial):
    small = case._replace(channels=8, options=case.options | ({"groups": 2} if "groups" in case.options else {}))
    module = create_random(small, dtype=torch.float64)
    parameters = dict(module.named_parameters())
    x = sample(2, 8, *spatial, dtype=torch.float64).requires_grad_()

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(parameters, values, strict=True)), (x,))

    for training in (True, False) if case.batch_norm else (True,):
        module.train(training)
        assert torch.autograd.gradcheck(call, (x, *parameters.values()))


@with_modes
def test_every_parameter_learns_from_the_start_even_as_identity(case, training):
    torch.manual_seed(0)  # SE's two hidden units may both be dead for another seed
    # What stands in front of two batch norms learns slowly at first, less than float32 resolves beside a weight of 1.
    dtype = torch.float64 if case.batch_norm else torch.float32
    module = create(case, dtype=dtype).train(training)
    module.start_as_identity()
    if not [*module.parameters()]:
        return
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    x = sample(4, case.channels, 6, 6, dtype=dtype)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        (module(x) - 0.5 * x.square()).square().mean().backward()
        optimizer.step()
    for name, parameter in module.named_parameters():
        if case.batch_norm:
            change = (parameter - before[name]).abs().max()
            assert change < 1e-12 if training and name in case.unseen else change > 1e-10, name
        else:
            assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@with_modes
def test_start_as_identity_returns_the_input_bit_for_bit(case, training, dtype):
    module = create(case)
    module.start_as_identity()
    module.to(dtype).train(training)
    for shape in [(2, 7, 7), (1, 5, 9), (1, 1, 1)]:
        x = sample(shape[0], case.channels, *shape[1:], dtype=dtype)
        assert torch.equal(module(x), x)
        subnormal = x * torch.finfo(dtype).tiny  # a gate on the way that is not 1 would cost bits of these
        assert torch.equal(module(subnormal), subnormal)


def test_the_factor_of_the_identity_travels_with_the_state_dict(case):
    module = create(case)
    module.start_as_identity()
    other = create(case)
    other.load_state_dict(module.half().state_dict())
    x = sample(2, case.channels, 5, 5)
    assert torch.equal(other(x), x)
    if plain := create(case).state_dict():  # of a module without weights there is nothing in a checkpoint to tell
        other.load_state_dict(plain)
        assert other.scale == 1.0
        assert other.blend is None


def test_a_state_dict_can_stand_for_the_parameters_in_a_functional_call(case):
    module, x = create(case).eval(), sample(2, case.channels, 5, 5)
    module.start_as_identity()
    state = module.state_dict()
    y = torch.func.functional_call(module, {name: tensor.clone() for name, tensor in state.items()}, (x,))
    assert torch.equal(y, x)
    assert list(module.state_dict()) == list(state)


def test_a_state_dict_of_the_meta_device_keeps_the_factor_of_the_identity(case):
    started = create(case)
    started.start_as_identity()
    with torch.device("meta"):
        module = create(case)
        module.start_as_identity()
        state = module.state_dict()
    other = create(case)
    other.load_state_dict(state, assign=True)
    assert other.scale == started.scale
    other.load_state_dict({name: tensor.to("meta") for name, tensor in state.items()}, assign=True)
    assert other.scale == started.scale


@with_modes
def test_asking_for_the_gate_counts_the_batch_as_a_forward_pass_does(case, training):
    module = create_random(case).train(training)
    twin, x = copy.deepcopy(module), sample(3, case.channels, 6, 6)
    module(x)
    twin.gate(x)
    for own, other in zip(module.buffers(), twin.buffers(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(case, dtype):
    module, x = create_random(case), sample(2, case.channels, 6, 6)
    with torch.autocast("cpu", dtype=dtype):
        wide, narrow = module(x), module(x.to(dtype))
    tolerance = {torch.bfloat16: 4e-2, torch.float16: 4e-3}[dtype]
    assert narrow.dtype == dtype
    torch.testing.assert_close(wide.float(), module(x), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(narrow.float(), module(x), rtol=tolerance, atol=tolerance)


@one_of_each
def test_compiles_without_graph_breaks_for_any_batch_and_size(case):
    torch.compiler.reset()
    module = create_random(case)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in [(2, 7, 7), (3, 5, 9), (5, 14, 14)]:
        x = sample(shape[0], case.channels, *shape[1:]).requires_grad_()
        y = compiled(x)
        torch.testing.assert_close(y, module(x), rtol=1e-5, atol=1e-6)
        y.sum().backward()
        assert x.grad.isfinite().all()


@pytest.mark.slow
def test_compiles_with_inductor(case):
    torch.compiler.reset()
    module = create_random(case)
    compiled = torch.compile(module, fullgraph=True, dynamic=True)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = sample(3, case.channels, 7, 9).contiguous(memory_format=layout).requires_grad_()
        y = compiled(x)
        torch.testing.assert_close(y, module(x), rtol=1e-4, atol=1e-5)
        y.sum().backward()
        assert x.grad.isfinite().all()


def test_exports_with_dynamic_batch_height_and_width(case):
    module = create_random(case).eval()
    program = torch.export.export(
        module,
        (sample(2, case.channels, max(8, case.exported), max(7, case.exported)),),
        dynamic_shapes={"x": {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC}},
    ).module()
    for batch, height, width in [(1, 1, 1), (4, 5, 6), (2, 1, 9), (3, 14, 14), (2, 19, 31)]:
        x = sample(batch, case.channels, max(height, case.exported), max(width, case.exported))
        torch.testing.assert_close(program(x), module(x), rtol=1e-5, atol=1e-6)


def test_deepcopy_pickle_and_repr(case):
    module = create_random(case)
    module.scale = 1.5
    x = sample(2, case.channels, 4, 4)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))
    assert type(module).__name__ in repr(module)


def test_device_and_dtype_arguments_reach_every_parameter_and_buffer(case):
    module = create(case, device="meta", dtype=torch.float64)
    tensors = [*module.parameters(), *module.buffers()]
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert all(tensor.dtype == torch.float64 for tensor in tensors if tensor.is_floating_point())


def test_it_fits_timms_attention_slot(case):
    timm = pytest.importorskip("timm")

    def layer(channels: int, **more: Any) -> nn.Module:
        return create(case._replace(channels=channels), **more)

    model = timm.create_model("resnet26", num_classes=3, block_args={"attn_layer": layer})
    assert sum(isinstance(m, Attention) for m in model.modules()) == 8
    assert model(sample(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("axes", range(5))
@pytest.mark.parametrize("channels", [31, 32])
def test_input_that_does_not_fit_is_refused(case, axes, channels):
    if channels == case.channels and axes in case.axes:
        return
    module, bad = create_random(case), sample(2, channels, *(2,) * axes)
    rule = "height, width" if case.axes == (2,) else "1 to 3 spatial axes"
    for call in (module, module.gate):
        with pytest.raises(ValueError, match=rf"takes \(batch, 32, {rule}\), not a tensor of shape"):
            call(bad)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_a_map_of_whole_numbers_is_refused(case, dtype):
    module, bad = create_random(case), torch.ones(2, case.channels, 4, 4, dtype=dtype)
    for call in (module, module.gate):
        with pytest.raises(ConfigError, match=rf"takes floating-point input, not {dtype}; convert it with .float\(\)"):
            call(bad)
