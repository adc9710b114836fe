"""The promises that every attention module keeps. A module joins by one line in CASES."""

from __future__ import annotations

import copy
import pickle
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sgenet
from sgenet.attention import Attention


class Case(NamedTuple):
    name: str
    options: dict[str, Any] = {}  # noqa: RUF012  # never changed
    channels: int = 32


CASES = [
    Case("se"),
    Case("se", {"reduction": 4, "bias": False}),
    Case("sge", {"groups": 8}),
    Case("sge", {"groups": 1}),
    Case("sge", {"groups": 32}),
]

DYNAMIC = torch.export.Dim.DYNAMIC


@pytest.fixture(params=CASES, ids=lambda case: f"{case.name}-{'-'.join(map(str, case.options.values()))}")
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def create(case: Case, **more: Any) -> Attention:
    return sgenet.create_attention(case.name, case.channels, **case.options, **more)


def create_random(case: Case, **more: Any) -> Attention:
    """A module whose parameters are all random, so that an initial zero hides nothing."""
    module = create(case, **more)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def sample(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("spatial", [(7,), (7, 7), (14, 14), (5, 9), (1, 6), (1, 1), (3, 4, 5)])
def test_output_is_input_times_gate_within_its_range(case, spatial):
    module = create_random(case, dtype=torch.float64)
    x = sample(2, case.channels, *spatial, dtype=torch.float64)
    gate = module.gate(x)
    torch.testing.assert_close(module(x), x * gate, rtol=1e-12, atol=1e-12)
    low, high = module.gate_range
    assert low <= gate.min()
    assert gate.max() <= high  # the sigmoid rounds to 1


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float16, 4e-3), (torch.bfloat16, 4e-2), (torch.float32, 2e-5), (torch.float64, 1e-12)],
)
def test_dtype_is_kept_and_agrees_with_float64(case, dtype, tolerance):
    module, x = create_random(case, dtype=dtype), sample(2, case.channels, 6, 6, dtype=dtype)
    y = module(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), copy.deepcopy(module).double()(x.double()), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 7, 112])
def test_half_precision_stays_finite_at_activations_of_1e3(case, dtype, size):
    x = (sample(1, case.channels, size, size) + 1.0).mul(1e3).to(dtype)
    assert create(case, dtype=dtype)(x).isfinite().all()


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
def test_empty_batch(case, spatial):
    module, x = create(case), torch.zeros(0, case.channels, *spatial, requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("spatial", [(1, 1), (4, 4), (7, 7)])
@pytest.mark.parametrize("value", [0.0, 1e-6, 13.7, 1e3])
def test_constant_maps_have_finite_values_and_gradients(case, spatial, value):
    module = create_random(case)
    x = torch.full((2, case.channels, *spatial), value, requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert y.isfinite().all()
    for tensor in (x, *module.parameters()):
        assert tensor.grad.isfinite().all()


@settings(max_examples=15, deadline=None)
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


def test_samples_do_not_see_each_other(case):
    module, x = create_random(case).eval(), sample(3, case.channels, 6, 6)
    torch.testing.assert_close(module(x)[1:2], module(x[1:2]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spatial", [(4, 3), (5,), (1, 1)])
def test_gradients_agree_with_finite_differences(case, spatial):
    small = case._replace(channels=8, options=case.options | ({"groups": 2} if "groups" in case.options else {}))
    module = create_random(small, dtype=torch.float64)
    names, parameters = zip(*module.named_parameters(), strict=True)
    x = sample(2, 8, *spatial, dtype=torch.float64).requires_grad_()

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *parameters))


def test_every_parameter_learns_from_the_start_even_as_identity(case):
    torch.manual_seed(0)  # SE's two hidden units may both be dead for another seed
    module = create(case)
    module.start_as_identity()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    x = sample(4, case.channels, 6, 6)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        (module(x) - 0.5 * x.square()).square().mean().backward()
        optimizer.step()
    for name, parameter in module.named_parameters():
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_start_as_identity_returns_the_input_bit_for_bit(case, dtype):
    module = create(case)
    module.start_as_identity()
    x = sample(2, case.channels, 7, 7, dtype=dtype)
    assert torch.equal(module.to(dtype)(x), x)


def test_the_factor_of_the_identity_travels_with_the_state_dict(case):
    module = create(case)
    module.start_as_identity()
    other = create(case)
    other.load_state_dict(module.half().state_dict())
    x = sample(2, case.channels, 5, 5)
    assert torch.equal(other(x), x)
    other.load_state_dict(create(case).state_dict())
    assert other.scale == 1.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(case, dtype):
    module, x = create_random(case), sample(2, case.channels, 6, 6)
    with torch.autocast("cpu", dtype=dtype):
        wide, narrow = module(x), module(x.to(dtype))
    tolerance = {torch.bfloat16: 4e-2, torch.float16: 4e-3}[dtype]
    assert narrow.dtype == dtype
    torch.testing.assert_close(wide.float(), module(x), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(narrow.float(), module(x), rtol=tolerance, atol=tolerance)


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
        module, (sample(2, case.channels, 8, 7),), dynamic_shapes={"x": {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC}}
    ).module()
    for shape in [(1, 1, 1), (4, 5, 6), (2, 1, 9), (3, 14, 14)]:
        x = sample(shape[0], case.channels, *shape[1:])
        torch.testing.assert_close(program(x), module(x), rtol=1e-5, atol=1e-6)


def test_deepcopy_pickle_and_repr(case):
    module = create_random(case)
    module.scale = 1.5
    x = sample(2, case.channels, 4, 4)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))
    assert type(module).__name__ in repr(module)


def test_device_and_dtype_arguments_reach_every_parameter(case):
    module = create(case, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.float64)}


def test_it_fits_timms_attention_slot(case):
    timm = pytest.importorskip("timm")

    def layer(channels: int, **more: Any) -> nn.Module:
        return create(case._replace(channels=channels), **more)

    model = timm.create_model("resnet26", num_classes=3, block_args={"attn_layer": layer})
    assert sum(isinstance(m, Attention) for m in model.modules()) == 8
    assert model(sample(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("bad", [sample(32, 7), sample(2, 31, 7, 7), sample(1, 32, 2, 2, 2, 2)])
def test_input_that_does_not_fit_is_refused(case, bad):
    module = create_random(case)
    for call in (module, module.gate):
        with pytest.raises(ValueError, match=r"takes \(batch, 32, 1 to 3 spatial axes\), not a tensor of shape"):
            call(bad)
