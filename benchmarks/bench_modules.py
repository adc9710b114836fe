"""Time attention modules and networks with them, each beside its baseline in the same minute.

    python benchmarks/bench_modules.py

Two comparisons, printed and added to `results/modules-<device>.csv`, a row each:

- a module alone, forward and backward with a given gradient, against copying its input once: what the memory of this
  machine needs at least to read and write the map;
- a whole ResNet, plain against with attention, forward alone and forward with backward.

The networks run in turn (A, B, C, B, C, A, ...); a ratio is the median of the rounds' ratios, with its quartiles. The
row of the baseline itself is a second copy of it: how far it is from 1 is the noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sgenet
from recording import add_row, circumstances, results_file
from sgenet.cost import Ratio, latency_ratio

# ResNet-50's four stages at 224 pixels: channels and height.
STAGES = ((256, 56), (512, 28), (1024, 14), (2048, 7))
NETWORKS = ("resnet18", "resnet50")


class Copy(nn.Module):
    """One read and one write of the map."""

    def forward(self, x: Tensor) -> Tensor:
        """A copy of `x`, in its memory format."""
        return torch.empty_like(x).copy_(x)


class ForwardBackward(nn.Module):
    """Both passes of a module, with the input as the gradient, so that no loss is timed along."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """The gradient of the input; those of the parameters are computed too."""
        with torch.inference_mode(mode=False), torch.enable_grad():
            leaf = x.detach().requires_grad_()
            wanted = (leaf, *self.module.parameters())
            return torch.autograd.grad(self.module(leaf), wanted, x)[0]


def modules_alone(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of the first comparison."""
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    for channels, size in STAGES:
        models: dict[str, nn.Module] = {"copy": Copy()}
        for name in sgenet.list_attention():
            models[name] = ForwardBackward(sgenet.create_attention(name, channels))
        shape = (options.batch, channels, size, size)
        ratios = latency_ratio(
            {name: model.to(options.device) for name, model in models.items()},
            lambda shape=shape: torch.randn(shape, device=options.device).to(memory_format=layout),  # type: ignore[misc]
            baseline="copy",
            rounds=options.rounds,
        )
        for name, ratio in ratios.items():
            yield row("module", "forward+backward", name, "copy", shape, ratio)


def whole_networks(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of the second comparison."""
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    shape = (options.batch, 3, options.size, options.size)
    for network in NETWORKS:
        models = {network: sgenet.create_model(network)}
        for name in sgenet.list_attention():
            if name != "none":
                models[f"{name}_{network}"] = sgenet.create_model(network, attention=name)
        models = {name: model.to(options.device).to(memory_format=layout) for name, model in models.items()}
        for mode, passes in (("infer", "forward"), ("train", "forward+backward")):
            ratios = latency_ratio(
                models,
                lambda: torch.randn(shape, device=options.device).to(memory_format=layout),
                baseline=network,
                rounds=options.rounds,
                mode=mode,  # type: ignore[arg-type]
            )
            for name, ratio in ratios.items():
                yield row("network", passes, name, network, shape, ratio)


def row(what: str, passes: str, name: str, baseline: str, shape: tuple[int, ...], ratio: Ratio) -> dict[str, Any]:
    """A result, by column."""
    return {
        "what": what,
        "passes": passes,
        "name": name,
        "baseline": baseline,
        "input": "x".join(map(str, shape)),
        "ratio": f"{ratio.median:.3f}",
        "lower quartile": f"{ratio.lower:.3f}",
        "upper quartile": f"{ratio.upper:.3f}",
        "ms": f"{ratio.seconds * 1e3:.3f}",
        "rounds": ratio.rounds,
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="of the networks' input, in pixels")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--results", type=Path, help="the CSV file")
    return parser.parse_args()


def main() -> None:
    """Run both comparisons."""
    options = parse()
    about = {"layout": "NHWC" if options.channels_last else "NCHW", **circumstances(options.device)}
    results = options.results or results_file("modules", about["device"])
    for name, value in about.items():
        print(f"{name}: {value}")
    for compare in (modules_alone, whole_networks):
        for values in compare(options):
            add_row(results, values | about)
            spread = f"[{values['lower quartile']}, {values['upper quartile']}]"
            print(
                f"{values['input']:>16}  {values['passes']:16}  {values['name']:12}"
                f"  {values['ratio']:>7} {spread:>16} x {values['baseline']:8}  {values['ms']:>9} ms",
                flush=True,
            )
    print(f"rows added to {results}")


if __name__ == "__main__":
    main()
