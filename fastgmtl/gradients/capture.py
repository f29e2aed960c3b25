"""backward: from the losses of T tasks to ``.grad``, by an aggregator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fastgmtl import ops
from fastgmtl.gradients.base import Aggregator, GramAggregator, check_range, update_norm
from fastgmtl.gradients.ranks import Ranks, add_up, add_up_grads
from fastgmtl.gradients.walk import leaves, parting
from fastgmtl.ops.check import one_of
from fastgmtl.ops.rows import MAX_TASKS

Loss: TypeAlias = Tensor | Callable[[], Tensor] | None
Row: TypeAlias = Sequence[Tensor | None]
CAPTURES = ("loop", "batched")
# Bytes of the cotangents that go through a graph together on a CPU.
_CACHED = 1 << 18
_NO_GRAM = "backward: this aggregator reads no Gram matrix: there is nothing to report"


@dataclass(frozen=True)
class Report:
    """What a :func:`backward` did, on the device of the gradients: reading a number waits for it, nothing else does.

    ``weights`` [T] ([K, T] with groups) and ``gram`` [T, T] ([K, T, T]) are float64; None for an aggregator that is no
    function of the Gram matrix. A task without a loss has zeros.
    """

    weights: Tensor | None
    gram: Tensor | None

    def _whole(self) -> Tensor:
        if self.gram is None:
            raise ValueError(_NO_GRAM)
        return self.gram.sum(0) if self.gram.dim() == 3 else self.gram

    @property
    def norms(self) -> Tensor:
        """[T], of the gradients of the shared parameters."""
        return self._whole().diagonal().clamp(min=0).sqrt()

    @property
    def cosines(self) -> Tensor:
        """[T, T]; 0 for a task without a gradient."""
        norms = self.norms
        size = norms.unsqueeze(1) * norms
        return torch.where(size > 0, self._whole() / torch.where(size > 0, size, 1), 0)

    @property
    def conflicts(self) -> Tensor:
        """The number of pairs of tasks whose gradients go against each other, []."""
        return (self._whole().triu(1) < 0).sum()

    @property
    def norm(self) -> Tensor:
        """Of the update of the shared parameters, []."""
        if self.weights is None or self.gram is None:
            raise ValueError(_NO_GRAM)
        of_groups = update_norm(self.weights, self.gram)
        return of_groups if of_groups.dim() == 0 else of_groups.square().sum().sqrt()


def backward(
    losses: Tensor | Sequence[Loss],
    parameters: nn.Module | Iterable[Tensor],
    method: Aggregator,
    *,
    target: int | None = None,
    features: Tensor | Sequence[Tensor] | None = None,
    groups: str | Sequence[int] | None = None,
    capture: str = "loop",
    scaler: Any = None,
    max_norm: float | None = None,
    retain_graph: bool = False,
    process_group: Any = None,
    sync: str | None = None,
) -> Report:
    """Add to ``.grad`` what ``method`` makes of the gradients of T losses; instead of ``sum(losses).backward()``.

    A parameter that several losses depend on is shared: it gets the aggregator's update. One that a single loss depends
    on (a task's head) gets that loss's plain gradient, one that none depends on is left alone. A loss that does not
    depend on a shared parameter has zeros there. Where there is but one loss in a step all get its plain gradient: the
    method is not asked, and the report has zeros.

    Args:
        losses: a tensor [T], or T numbers; or functions that give them, called one after another so that only one
            graph is there at a time. None, or a number without a graph, is a task that is missing in this step.
        parameters: a model, or the tensors to differentiate in.
        method: an aggregator of :mod:`fastgmtl.gradients`.
        target: the target task of a method that has one; None for the method's own.
        features: the shared representation(s): the losses are differentiated in them, ``method`` makes one update of
            that, and the parameters before them get it by one backward. Costs about as much as an ordinary backward.
            What comes after the features gets plain gradients, added over the tasks.
        groups: problems of their own for parts of the shared parameters: "tensor", "module" (the module that owns a
            parameter; a model must be given), or a number for each of the parameters.
        capture: "loop" differentiates one loss after another and frees the graph with the last. "batched" does so down
            to where the losses' graphs meet, and goes on from there with all of them at once (one by one where an
            operation has no rule for it): fewer calls, but T times the memory of a backward; the graph stays until the
            losses are gone. On a CPU only as many at once as stay in the cache: for larger tensors it is the loop.
        scaler: a ``torch.amp.GradScaler``: the losses are scaled before they are differentiated and ``.grad`` is left
            scaled, as ``scaler.step`` expects; the method sees the gradients themselves.
        max_norm: the most that the norm of the update of the shared parameters may be, as
            ``torch.nn.utils.clip_grad_norm_`` bounds it, but from the Gram matrix: no further pass, nothing waits for
            the device, and before ``scaler`` scales. Not with ``features``, where that norm is not known.
        retain_graph: keep the graph.
        process_group: the ranks of ``torch.distributed`` that share the losses: what is aggregated are the sums of
            their gradients, so a loss has to be divided by its labels on all ranks. The update, the same on all ranks,
            is that of one process with all of the data. A task without labels on a rank counts as 0 there, one that
            is missing on all ranks is missing. What the method draws, rank 0 draws.
        sync: how, on several ranks; with it and without ``process_group`` that is PyTorch's default group. None is
            "auto" where there is a ``process_group``. With T tasks, P parameters and W ranks

            * "all_reduce": T x P numbers are added up, the rest is done on every rank;
            * "reduce_scatter": every rank gets the sum of T x P / W of them, T x T inner products are added up, and
              the parts of the update gathered: the least that has to travel, and 1 / W of the work;
            * "auto": the second on nccl, the first on gloo and for methods that read no Gram matrix. With
              ``features`` instead T x T inner products are added up (features of different ranks are different
              coordinates), and after one ordinary backward P numbers;
            * "local_gram": the weights come from W times the sum of the ranks' own Gram matrices, then P numbers are
              added up. *Biased*: products of gradients of different ranks are missing, so that the noise of each rank
              makes gradients look longer, and less in conflict, than those of the whole batch are.

    Returns:
        :class:`Report`: weights, Gram matrix, norms, cosines and conflicts.

    Raises:
        ValueError: there is nothing to differentiate, or options that do not fit each other.
        TypeError: a loss is not a number, a parameter is not a tensor.
        RuntimeError: the parameters or the task weights of some ranks differ from those of rank 0; it names the ranks.
    """
    one_of("backward", "capture", capture, CAPTURES)
    if not isinstance(method, Aggregator):
        raise TypeError(f"backward: method must be an aggregator of fastgmtl.gradients, got {type(method).__name__}")
    if target is not None:
        if not hasattr(method, "target"):
            raise ValueError(f"backward: {type(method).__name__} has no target task")
        method.target = target  # type: ignore[assignment]
    given = parameters.parameters() if isinstance(parameters, nn.Module) else parameters
    tensors = [_parameter(p) for p in given]
    tensors = [p for p in tensors if p.requires_grad]
    if not tensors:
        raise ValueError("backward: none of the parameters requires grad")
    which = _groups(groups, tensors, parameters)
    values = list(losses.unbind()) if isinstance(losses, Tensor) and losses.dim() == 1 else losses
    if isinstance(values, Tensor) or not values:
        raise ValueError("backward: losses must be a tensor [T] or a sequence of T numbers")
    if max_norm is not None:
        check_range("backward", "max_norm", max_norm, 0)
        if features is not None or not isinstance(method, GramAggregator):
            raise ValueError(
                "backward: max_norm must be left out with features and with a method that reads no Gram matrix: the "
                "norm of the update is not known"
            )
    ranks = None
    if process_group is not None or sync is not None:
        ranks = Ranks(process_group, sync or "auto", tensors[0].device, method, features is not None)
    run = _Run(tensors, which, method, scaler, max_norm, retain_graph, ranks)
    if features is not None:
        if groups is not None or capture != "loop":
            raise ValueError(
                "backward: with features there is one problem and no capture; leave out groups and capture"
            )
        return run.at_features(values, [features] if isinstance(features, Tensor) else list(features))
    return run.batched(values) if capture == "batched" else run.one_by_one(values)


def _parameter(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"backward: parameters must be tensors, got {type(value).__name__}")
    return value


def _groups(groups: Any, tensors: list[Tensor], parameters: Any) -> list[int] | None:
    """A number for each of the tensors."""
    if groups is None:
        return None
    if not isinstance(groups, str):
        found = [int(k) for k in groups]
        if len(found) != len(tensors):
            raise ValueError(
                f"backward: groups must have a number for each of {len(tensors)} parameters, got {len(found)}"
            )
        return found
    one_of("backward", "groups", groups, ("tensor", "module"))
    if groups == "tensor":
        return list(range(len(tensors)))
    if not isinstance(parameters, nn.Module):
        raise ValueError('backward: groups="module" must have a model as parameters')
    owner = {id(p): k for k, module in enumerate(parameters.modules()) for p in module.parameters(recurse=False)}
    return [owner[id(p)] for p in tensors]


class _Run:
    """One call of :func:`backward`."""

    def __init__(
        self,
        tensors: list[Tensor],
        groups: list[int] | None,
        method: Aggregator,
        scaler: Any,
        max_norm: float | None,
        retain_graph: bool,
        ranks: Ranks | None,
    ) -> None:
        self.ranks = ranks
        self.tensors, self.groups, self.method, self.retain_graph = tensors, groups, method, retain_graph
        self.max_norm = max_norm
        self.scale: Tensor | None = None
        if scaler is not None and scaler.is_enabled():
            self.scale = scaler.scale(torch.ones((), device=tensors[0].device))

    def loss(self, value: Loss) -> Tensor | None:
        """The loss to differentiate, or None for a task that is missing."""
        value = value() if callable(value) and not isinstance(value, Tensor) else value
        if value is None:
            return None
        if not isinstance(value, Tensor) or value.numel() != 1:
            what = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"backward: a loss must be a number with a graph, a function or None, got {what}")
        if not value.requires_grad:
            return None
        return value if self.scale is None else value * self.scale

    def one_by_one(self, losses: Sequence[Loss]) -> Report:
        """A backward for each loss; the last one frees the graph."""
        # Functions have graphs of their own, which nobody else needs.
        last = max((t for t, v in enumerate(losses) if isinstance(v, Tensor) and v.requires_grad), default=-1)
        rows: list[Row] = []
        for t, given in enumerate(losses):
            value = self.loss(given)
            keep = self.retain_graph or (isinstance(given, Tensor) and t < last)
            if value is None:
                rows.append([None] * len(self.tensors))
            else:
                rows.append(torch.autograd.grad(value, self.tensors, retain_graph=keep, allow_unused=True))
        return self.update(rows)

    def batched(self, losses: Sequence[Loss]) -> Report:
        """Loss by loss down to what they share, from there on several at once."""
        if any(callable(v) and not isinstance(v, Tensor) for v in losses):
            return self.one_by_one(losses)  # functions have graphs of their own
        values = [self.loss(v) for v in losses]
        there = {t: v for t, v in enumerate(values) if v is not None and v.grad_fn is not None}
        part = parting(list(there.values()))
        of = dict(zip(there, part.of, strict=True))
        own = {t: [part.edges[k] for k in mine] for t, mine in of.items()}
        alone = {t: leaves([v], nodes={edge.node for edge in own[t]}) for t, v in there.items()}
        # What a loss reaches by a way of its own too is left to the loop: the engine follows all ways to a leaf.
        tied = part.reached & set[int]().union(*alone.values())
        common = [n for n, p in enumerate(self.tensors) if id(p) in part.reached - tied]
        together = _together(part.edges)
        if not common or together == 1:
            return self.one_by_one(losses)
        rows: list[list[Tensor | None]] = [[None] * len(self.tensors) for _ in losses]

        def cotangents(t: int) -> list[Tensor | None]:
            """Of a loss in the edges; what it reaches by itself goes into its row."""
            some = [n for n, p in enumerate(self.tensors) if id(p) in alone[t] | tied]
            wanted: list[Any] = [*own[t], *(self.tensors[n] for n in some)]
            found = torch.autograd.grad(there[t], wanted, retain_graph=True, allow_unused=True)
            for n, g in zip(some, found[len(own[t]) :], strict=True):
                rows[t][n] = g
            column: list[Tensor | None] = [None] * len(part.edges)
            for k, g in zip(of[t], found, strict=False):
                column[k] = g
            return column

        order, trunk = list(there), [self.tensors[n] for n in common]
        for start in range(0, len(order), together):
            some = order[start : start + together]
            found = _through(part.edges, trunk, [cotangents(t) for t in some])
            for t, row in zip(some, found, strict=True):
                for n, g in zip(common, row, strict=True):
                    rows[t][n] = g
        return self.update(rows)

    def at_features(self, losses: Sequence[Loss], features: list[Tensor]) -> Report:
        """The aggregator works on the gradients of the features; the trunk before them has one backward."""
        values = [self.loss(v) for v in losses]
        if any(not z.requires_grad or z.grad_fn is None for z in features):
            raise ValueError("backward: features must be computed from parameters that require grad")
        before, rows, kept = leaves(features), list[Row](), [p.grad for p in self.tensors]
        if self.ranks is not None:  # only what this call adds is added up
            for p in self.tensors:
                p.grad = None
        for t, value in enumerate(values):
            if value is None:
                rows.append([None] * len(features))
                continue
            own = leaves([value], stop=features)
            if own & before & set(map(id, self.tensors)):
                raise ValueError("backward: a parameter is used both before the features and after them")
            heads = [p for p in self.tensors if id(p) in own]
            keep = self.retain_graph or t < len(values) - 1
            found = torch.autograd.grad(value, [*features, *heads], retain_graph=keep, allow_unused=True)
            rows.append(found[: len(features)])
            for p, g in zip(heads, found[len(features) :], strict=True):
                if g is not None:
                    _add(p, g)
        trunk = [p for p in self.tensors if id(p) in before]
        if self.ranks is not None:
            rows = list[Row](self.ranks.fill(rows, features))
        if all(g is None for row in rows for g in row):
            raise ValueError("backward: no loss depends on the features")
        update, report = self.aggregate(rows, None)
        pairs = [(z, d) for z, d in zip(features, update, strict=True) if d is not None]
        if trunk:
            outputs, cotangents = zip(*pairs, strict=True)
            torch.autograd.backward(outputs, cotangents, retain_graph=self.retain_graph, inputs=trunk)
        if self.ranks is not None:
            add_up_grads(self.tensors, self.ranks.group, self.tensors[0].new_zeros(0))
            for p, grad in zip(self.tensors, kept, strict=True):
                p.grad = grad if p.grad is None else p.grad if grad is None else grad.add_(p.grad)
        return report

    def update(self, rows: Sequence[Row]) -> Report:
        """Write the update of gradients for all tensors."""
        ranks = self.ranks
        if ranks is not None:
            rows = ranks.fill(rows, self.tensors)
            if ranks.way == "all_reduce":
                rows = ranks.summed(rows)
        columns = [[g for row in rows if (g := row[n]) is not None] for n in range(len(self.tensors))]
        shared = [n for n, column in enumerate(columns) if len(column) > 1]
        alone = sum(any(g is not None for g in row) for row in rows) == 1
        if not shared and not alone:
            raise ValueError("backward: no parameter is shared by two of the losses; call sum(losses).backward()")
        own = {n: column[0] for n, column in enumerate(columns) if len(column) == 1}
        if ranks is not None and ranks.way != "all_reduce" and own:
            own = dict(zip(own, add_up(list(own.values()), ranks.group), strict=True))
        for n, grad in own.items():
            _add(self.tensors[n], grad)
        if alone:
            if ranks is not None:
                ranks.check(self.tensors, self.scale, None)
            zeros = self.tensors[0].new_zeros(len(rows), len(rows), dtype=torch.float64)
            return Report(zeros[0].clone(), zeros)
        found = [[row[n] for n in shared] for row in rows]
        return self.write([self.tensors[n] for n in shared], found, shared)

    def write(self, shared: list[Tensor], rows: Any, places: list[int]) -> Report:
        """Add the aggregator's update to ``.grad`` of the shared parameters."""
        groups = self.groups
        if groups is None and isinstance(self.method, GramAggregator) and self.method.per_tensor:
            groups = list(range(len(self.tensors)))
        if groups is not None:
            numbers = {k: i for i, k in enumerate(dict.fromkeys(groups[n] for n in places))}
            groups = [numbers[groups[n]] for n in places]
        update, report = self.aggregate(rows, groups, [p.grad for p in shared])
        for p, value in zip(shared, update, strict=True):
            p.grad = value
        return report

    def aggregate(
        self, rows: Any, groups: list[int] | None, before: list[Tensor | None] | None = None
    ) -> tuple[list[Any], Report]:
        """The update, added to what was there before (in place), and the report."""
        method = self.method
        size = len(rows) if isinstance(rows[0], Tensor) else len(rows[0])
        there = [None] * size if before is None else before
        if not isinstance(method, GramAggregator):
            if groups is not None:
                raise ValueError(f"backward: {type(method).__name__} decides for every parameter: leave out groups")
            with contextlib.nullcontext() if self.ranks is None else self.ranks.drawing(method, self.tensors):
                found = method(rows)
            return [d if b is None else b.add_(d) for b, d in zip(there, found, strict=True)], Report(None, None)
        with torch.no_grad():
            if self.ranks is not None:
                with self.ranks.drawing(method, self.tensors):
                    found, weights, gram = self.ranks.solve(rows, groups, self.weigh, before is None)
                self.ranks.check(self.tensors, self.scale, weights)
                found = [b if d is None else d if b is None else b.add_(d) for b, d in zip(there, found, strict=True)]
                return found, Report(weights.detach(), gram)
            weights, gram = self.weigh(ops.gram(rows, groups))
            found = list[Any](there)
            for adds in (False, True):
                some = [n for n, b in enumerate(there) if (b is not None) == adds]
                if some:
                    part = _some(rows, some)
                    into = [there[n] for n in some] if adds else None
                    of = None if groups is None else [groups[n] for n in some]
                    for n, value in zip(some, ops.combine(part, weights, into, adds, groups=of), strict=True):
                        found[n] = value
        return found, Report(weights.detach(), gram)

    def weigh(self, gram: Tensor) -> tuple[Tensor, Tensor]:
        """The weights, and the Gram matrix of losses without a scale, from that of the gradients."""
        assert isinstance(self.method, GramAggregator)
        if self.scale is not None:
            gram = gram / self.scale.double().square()
        weights = self.method.weights(gram)
        if self.max_norm is not None:
            norm = Report(weights, gram).norm
            weights = weights * torch.where(norm > self.max_norm, self.max_norm / norm, 1)
        return weights, gram


def _stack(column: Sequence[Tensor | None]) -> Tensor:
    """[T, ...], zeros for what is missing."""
    like = next(g for g in column if g is not None)
    return torch.stack([torch.zeros_like(like) if g is None else g for g in column])


def _together(edges: Sequence[Any]) -> int:
    """How many losses go through these edges at once: all on CUDA, where calls are dear; on a CPU as many as stay in
    the cache, because there a batch of larger tensors costs more than its parts."""
    sizes = [edge.node._input_metadata[edge.output_nr] for edge in edges]
    if any(size.device.type != "cpu" for size in sizes):
        return MAX_TASKS
    return max(1, _CACHED // max(1, sum(prod(size.shape) * size.dtype.itemsize for size in sizes)))


def _through(edges: Sequence[Any], tensors: list[Tensor], columns: list[list[Tensor | None]]) -> list[Row]:
    """Gradients of the tensors from several columns of cotangents in the edges."""
    used = [k for k in range(len(edges)) if any(column[k] is not None for column in columns)]
    if not used:
        return [[None] * len(tensors)] * len(columns)
    reached, batches = [edges[k] for k in used], [_stack([column[k] for column in columns]) for k in used]

    def through(*cotangents: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(reached, tensors, cotangents, retain_graph=True, materialize_grads=True)

    try:
        return list(zip(*(found.unbind() for found in torch.func.vmap(through)(*batches)), strict=True))
    except RuntimeError:  # an operation has no rule for batches
        return [through(*(b[i] for b in batches)) for i in range(len(columns))]


def _some(rows: Any, places: list[int]) -> Any:
    """Those places of every row."""
    if isinstance(rows[0], Tensor):
        return [rows[n] for n in places]
    return [[row[n] for n in places] for row in rows]


def _add(parameter: Tensor, grad: Tensor) -> None:
    with torch.no_grad():
        if parameter.grad is None:
            # The engine may give one tensor, or a view without memory of its own, to several.
            parameter.grad = grad.clone(memory_format=torch.contiguous_format)
        else:
            parameter.grad.add_(grad)
