"""A record of training with several gradients: cosines, conflicts and weights, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fastgmtl.methods.panel import Panel, Plot


class Conflicts(nn.Module):
    """Means over the steps of each epoch, kept in buffers: what is drawn survives a checkpoint.

    Args:
        names: of the T tasks, the target first.
        epochs: how many there will be at most.
    """

    count: Tensor
    cosine: Tensor
    negative: Tensor
    steps: Tensor
    weight: Tensor
    learned: Tensor

    def __init__(self, names: Sequence[str], epochs: int) -> None:
        super().__init__()
        self.names = tuple(names)
        tasks = len(names)
        for name in ("cosine", "negative"):
            self.register_buffer(name, torch.zeros(epochs, tasks, tasks))
        for name in ("weight", "learned"):
            self.register_buffer(name, torch.zeros(epochs, tasks))
        for name in ("count", "steps"):
            self.register_buffer(name, torch.zeros(epochs))

    def add_gram(self, epoch: int, gram: Tensor) -> None:
        """Count a step with the inner products [T, T] of its gradients; epochs are counted from 0."""
        norm = gram.diagonal().clamp(min=0).sqrt()
        size = torch.outer(norm, norm)
        cosine = torch.where(size > 0, gram / torch.where(size > 0, size, 1), 0)
        self.cosine[epoch] += cosine
        self.negative[epoch] += cosine < 0
        self.count[epoch] += 1

    def add_weights(self, epoch: int, weight: Tensor, learned: Tensor | None = None) -> None:
        """Count a step with the weights [T] of its gradients, and those that are learned [T]."""
        self.weight[epoch] += weight
        if learned is not None:
            self.learned[epoch] += learned
        self.steps[epoch] += 1

    def pictures(self, learned: str = "") -> Mapping[str, Sequence[Panel | Plot]]:
        """Heat maps of all steps, and lines over the epochs. ``learned``: what the learned weight is, if there is one.

        cosines: the mean for each two tasks. conflicts: the share of negative ones. negative: that share, with the
        target, by epoch. weights: the mean weight of each gradient, and the learned one, by epoch.
        """
        pictures: dict[str, Sequence[Panel | Plot]] = {}
        total = float(self.count.sum())
        if total:
            pictures["cosines"] = [self._panel("all steps", self.cosine.sum(0) / total, "mean cosine", -1.0)]
            pictures["conflicts"] = [self._panel("all steps", self.negative.sum(0) / total, "share in conflict", 0.0)]
            share = self.negative[:, 0] / self.count[:, None]
            pictures["negative"] = [self._curves("steps against the target", share, "share of steps", self.count, 1)]
        if float(self.steps.sum()):
            mean = [("weights of gradients", self.weight, "mean weight", 0)]
            mean += [(learned, self.learned, "mean value", 1)] if learned else []
            pictures["weights"] = [
                self._curves(title, value / self.steps[:, None], label, self.steps, first)
                for title, value, label, first in mean
            ]
        return pictures

    def _panel(self, title: str, value: Tensor, label: str, low: float) -> Panel:
        return Panel(title, self.names, self.names, value.tolist(), "gradient of", "and of", label, low, 1.0)

    def _curves(self, title: str, value: Tensor, label: str, count: Tensor, first: int) -> Plot:
        known = count.nonzero()[:, 0]
        epochs = (known + 1.0).tolist()
        lines = {n: value[known, k].tolist() for k, n in enumerate(self.names) if k >= first}
        return Plot(title, {n: list(zip(epochs, y, strict=True)) for n, y in lines.items()}, "epoch", label)
