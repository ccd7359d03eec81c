"""Linear: large products of plain tensors take oneDNN's operator, everything else torch's, with equal results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from perceiver.model.core import linear as module
from perceiver.model.core.linear import Linear

pytestmark = pytest.mark.skipif(not module._ONEDNN, reason="this processor or torch build has no such operator")


class Operators(TorchDispatchMode):
    """Remembers the names of all operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def used_onednn(layer: Linear, x: Tensor) -> bool:
    with Operators() as operators:
        layer(x)
    return "mkldnn::_linear_pointwise" in operators.names


def plain(layer: Linear) -> nn.Linear:
    result = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    result.load_state_dict(layer.state_dict())
    return result


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 301, 173), (601, 173), (1, 2, 303, 173)])
@torch.no_grad()
def test_large_products_in_inference(shape: tuple[int, ...], bias: bool) -> None:
    layer, x = Linear(173, 197, bias=bias), torch.randn(shape)
    assert used_onednn(layer, x)
    torch.testing.assert_close(layer(x), plain(layer)(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_inputs_of_any_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGE_PRODUCT", 0)
    layer = Linear(7, 5)
    for x in (torch.randn(3, 7, 11).transpose(1, 2), torch.randn(1, 3, 7).expand(2, -1, -1), torch.randn(2, 0, 7)):
        assert used_onednn(layer, x)
        torch.testing.assert_close(layer(x), plain(layer)(x))


def test_everything_else_is_an_ordinary_linear_layer() -> None:
    layer, x = Linear(173, 197), torch.randn(601, 173)
    with torch.no_grad():
        assert used_onednn(layer, x)
        assert not used_onednn(layer, x[:3])  # small
        assert not used_onednn(layer.double(), x.double())
        assert not used_onednn(layer.bfloat16(), x.bfloat16())
        layer.float()
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert used_onednn(layer, x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", ["", "x", "weight", "bias", "x weight"])
def test_gradients_are_those_of_an_ordinary_linear_layer(frozen: str, bias: bool) -> None:
    """Also where a part is frozen, and of a gradient that is one number in memory."""
    layer, x = Linear(173, 197, bias=bias), torch.randn(2, 301, 173).requires_grad_("x" not in frozen)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name not in frozen)
    if frozen == "x weight" and not bias:
        return  # nothing to differentiate
    inputs = [tensor for tensor in (x, *layer.parameters()) if tensor.requires_grad]
    found, expected = layer(x), nn.functional.linear(x, layer.weight, layer.bias)
    assert used_onednn(layer, x) and not used_onednn(Linear(512, 512), torch.randn(1, 255, 512))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for result in zip(*(torch.autograd.grad(y.sum(), inputs) for y in (found, expected)), strict=True):
        torch.testing.assert_close(*result, atol=1e-3, rtol=1e-5)


def test_second_derivatives() -> None:
    layer, x = Linear(173, 197), torch.randn(601, 173, requires_grad=True)
    results = []
    for y in (layer(x), nn.functional.linear(x, layer.weight, layer.bias)):
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), (x, layer.weight)))
    for found, expected in zip(*results, strict=True):
        size = expected.abs().max()
        torch.testing.assert_close(found / size, expected / size, atol=1e-5, rtol=1e-5)


def test_what_is_kept_for_gradients() -> None:
    """A frozen layer keeps no input: adapters (LoRA) train with less memory."""
    layer, x = Linear(173, 197).requires_grad_(False), torch.randn(601, 173, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(x)
        assert [tensor.shape for tensor in kept] == [layer.weight.shape]
        layer.requires_grad_(True)(x.detach())
    assert [tensor.shape for tensor in kept[1:]] == [x.shape]


@torch.no_grad()
def test_transformations_see_an_ordinary_linear_layer() -> None:
    layer, x = Linear(173, 197).eval(), torch.randn(601, 173)
    exported = torch.export.export(layer, (x,))
    assert "mkldnn" not in str(exported.graph)
    torch.testing.assert_close(exported.module()(x), layer(x), atol=1e-5, rtol=1e-5)
    with torch.device("meta"):
        assert Linear(173, 197)(torch.empty(601, 173)).shape == (601, 197)
    mapped = torch.vmap(layer)(x.reshape(1, 601, 173))
    torch.testing.assert_close(mapped[0], layer(x), atol=1e-5, rtol=1e-5)
    gradient = torch.func.grad(lambda x: layer(x).sum())(x)
    torch.testing.assert_close(gradient, layer.weight.sum(dim=0).expand(601, 173), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own use of it
@torch.no_grad()
def test_forward_mode_derivatives() -> None:
    layer, x, direction = Linear(307, 431), torch.randn(2, 307), torch.randn(2, 307)
    _, derivative = torch.func.jvp(layer, (x,), (direction,))
    torch.testing.assert_close(derivative, direction @ layer.weight.T, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_large_weights_with_few_tokens() -> None:
    layer, x = Linear(307, 431), torch.randn(1, 1, 307)
    assert used_onednn(layer, x)
    torch.testing.assert_close(layer(x), plain(layer)(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_product_with_a_single_token_as_a_sum(bias: bool, dtype: torch.dtype) -> None:
    """What is compiled: weights as they are, or 8-bit numbers and a scale for each row."""
    layer = Linear(173, 197, bias=bias).to(dtype)
    x = torch.randn(1, 1, 173).to(dtype)
    factors = module._factors(layer.weight)
    assert factors is not None and factors[1] is None
    expected = plain(layer.float())(x.float())
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.01, "rtol": 0.01}
    result = module._vector_product(x, *factors, None if layer.bias is None else layer.bias.to(dtype))
    assert result.dtype == dtype and result.shape == (1, 1, 197)
    torch.testing.assert_close(result.float(), expected, **tolerance)
    numbers, scale = torch.randint(-128, 128, (197, 173), dtype=torch.int8), torch.rand(197, 1)
    result = module._vector_product(x, numbers, scale, None)
    expected = x.double() @ (numbers.double() * scale.double()).T
    torch.testing.assert_close(result.double(), expected, atol=1e-3, rtol=1e-5 if dtype == torch.float32 else 0.01)
