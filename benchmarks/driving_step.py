"""What an update of the driving agent at the paper's size costs on a GPU, reckoned from its operations, without one.

    python benchmarks/driving_step.py [--scenes 1] [--plans 10] [--measure] [--json FILE]

The networks are built on PyTorch's meta device, where operations have shapes and no numbers. What one update's products
are is counted by torch.utils.flop_counter, forward and backward; what it keeps for the backward pass is the sum over
tensors that autograd saves, each storage once. To that come weights, gradients and AdamW's two moments in single
precision. A GPU's time is then between all operations at its published rate (dense bfloat16) and at 0.3 of it, where
such networks usually end; its memory is a lower bound, without PyTorch's own and what lies between allocations.

With --measure the fine-tuning update of one scene is also done on this machine's processor, in single precision and
with bfloat16 products, beside the rate of one large product in the same run: that shows how far the count leads.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from train_speed import describe_machine

from dipole_sb3.common.files import replaced_when_complete
from dipole_sb3.driving.model.adapters import ADAPTERS, train_only
from dipole_sb3.driving.model.configuration import paper
from dipole_sb3.driving.model.planner import Planner
from dipole_sb3.driving.training.imitation import NOISES, ImitationLoss
from dipole_sb3.driving.training.losses import WeightedRegression

RATES = {"H200 or H100 SXM": 989.0, "A100": 312.0, "RTX 4090": 165.0}
"""Published rates of dense bfloat16 products with single-precision sums, TFLOP/s."""
USUAL = 0.3
GIB = 2**30


class Update:
    """The loss of one update and its inputs.

    :param loss: the module.
    :param inputs: of its forward pass.
    :param trained: parameters that get gradients.
    """

    def __init__(self, loss: nn.Module, inputs: Sequence[Tensor], trained: Sequence[nn.Parameter]) -> None:
        self.loss, self.inputs, self.trained = loss, inputs, trained

    def __call__(self) -> None:
        loss, _ = self.loss(*self.inputs)
        loss.backward()


def fine_tuning(planner: Planner, scenes: int, plans: int, tokens: int, device: str) -> Update:
    """Both adapters at once, on tokens that the frozen encoder has left."""
    planner.encoder.requires_grad_(False)
    trained = list(train_only(planner.decoder, ADAPTERS))
    width = planner.configuration.width

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, device=device)

    inputs = [drawn(scenes, tokens, width), drawn(scenes, 4, 3), drawn(scenes, plans, 8, 4), drawn(scenes, plans, 8, 4)]
    inputs += [drawn(scenes, plans), drawn(2, scenes, plans)]
    return Update(WeightedRegression(planner, ADAPTERS), inputs, trained)


def imitation(planner: Planner, scenes: int, text: int, cameras: int, device: str) -> Update:
    """Encoder and decoder."""
    planner.encoder.requires_grad_(True)
    trained = [*planner.encoder.parameters(), *train_only(planner.decoder, ())]
    size = planner.configuration.image_size
    pictures = torch.empty(scenes, cameras, size, size, 3, dtype=torch.uint8, device=device)
    told = torch.empty(scenes, text, dtype=torch.int64, device=device)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, device=device)

    inputs = [pictures, told, drawn(scenes, 4, 3), drawn(scenes, 8, 3), drawn(scenes, NOISES, 8, 4)]
    return Update(ImitationLoss(planner), [*inputs, drawn(scenes, NOISES)], trained)


@contextmanager
def saved_bytes(owned: Sequence[Tensor]) -> Iterator[Callable[[], int]]:
    """Counts what autograd saves in this block, but for weights and inputs."""
    known = {tensor.untyped_storage()._cdata for tensor in owned}
    saved: dict[int, tuple[int, Any]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = (storage.nbytes(), storage)  # kept, so that no number is given twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield lambda: sum(size for size, _ in saved.values())


def reckoned(update: Update, planner: Planner) -> dict[str, float]:
    """Operations of one update, and bytes of its parts."""
    with FlopCounterMode(display=False) as counter:
        update()
    for parameter in planner.parameters():
        parameter.grad = None
    owned = [*planner.parameters(), *planner.buffers(), *update.inputs]
    with saved_bytes(owned) as saved:
        update.loss(*update.inputs)
    trained = sum(parameter.numel() for parameter in update.trained)
    weights = sum(parameter.numel() for parameter in planner.parameters())
    return {
        "operations": float(counter.get_total_flops()),
        "weights": 4.0 * weights,
        "gradients_and_moments": 12.0 * trained,
        "kept_for_backward": float(saved()),
    }


def measured(scenes: int, plans: int, tokens: int) -> dict[str, float]:
    """Seconds of a fine-tuning update on this processor, and its rate of products in the same run."""
    planner = Planner(paper())
    update = fine_tuning(planner, scenes, plans, tokens, "cpu")
    found: dict[str, float] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        big = torch.rand(2048, 2048).to(dtype)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            update()
            seconds = min(timed(update) for _ in range(3))
        found[f"{name}_seconds"] = seconds
        found[f"{name}_product_rate"] = 2 * 2048**3 / min(timed(partial(torch.mm, big, big)) for _ in range(5))
    return found


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1, help="of a batch")
    parser.add_argument("--plans", type=int, default=10, help="of each scene, in fine-tuning")
    parser.add_argument("--tokens", type=int, default=475, help="of a scene")
    parser.add_argument("--cameras", type=int, default=3)
    parser.add_argument("--text", type=int, default=64, help="tokens of a scene's text")
    parser.add_argument("--measure", action="store_true", help="also do the fine-tuning update on this processor")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found: dict[str, Any] = {"machine": describe_machine(), "asked": {**vars(asked), "json": None}}
    with torch.device("meta"):
        planner = Planner(paper())
    updates: dict[str, Callable[[], Update]] = {
        "imitation": partial(imitation, planner, asked.scenes, asked.text, asked.cameras, "meta"),
        "fine_tuning": partial(fine_tuning, planner, asked.scenes, asked.plans, asked.tokens, "meta"),
    }
    for name, make in updates.items():
        parts = reckoned(make(), planner)
        memory = parts["weights"] + parts["gradients_and_moments"] + parts["kept_for_backward"]
        print(f"{name}, {asked.scenes} scenes: {parts['operations'] / 1e12:.2f} TFLOP, at least {memory / GIB:.1f} GiB")
        for part in ("weights", "gradients_and_moments", "kept_for_backward"):
            print(f"  {part.replace('_', ' '):<24}{parts[part] / GIB:8.2f} GiB")
        for device, rate in RATES.items():
            best = parts["operations"] / (rate * 1e12)
            print(f"  {device:<24}{1000 * best:8.1f} ms at its rate, {1000 * best / USUAL:.0f} ms at {USUAL} of it")
        found[name] = parts
    if asked.measure:
        seconds = found["measured"] = measured(asked.scenes, asked.plans, asked.tokens)
        for name in ("fp32", "bf16"):
            rate = found["fine_tuning"]["operations"] / seconds[f"{name}_seconds"]
            share = rate / seconds[f"{name}_product_rate"]
            took = seconds[f"{name}_seconds"]
            print(f"this processor, {name}: {took:.2f} s, {share:.2f} of the rate of a large product")
    if asked.json is not None:
        with replaced_when_complete(asked.json) as file:
            file.write(json.dumps(found, indent=2, default=str).encode())


if __name__ == "__main__":
    main()
