r"""relation_gate: gates over tasks and a softmax over relations, in one pass over the aggregates of each node."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgmtl import backend, reference
from fastgmtl.ops import fold
from fastgmtl.ops.check import floating_tensor, one_of
from fastgmtl.ops.operator import Operator
from fastgmtl.reference.relation_gate import ACTIVATIONS, gates
from fastgmtl.reference.relation_gate import relation_gate_backward as backward_twin

PARTIAL_ROWS = 256, 2048  # of the gradient of the weight, on CPUs and on GPUs


def relation_gate(
    z: Tensor,
    logits: Tensor,
    weight: Tensor | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    activation: str = "none",
) -> Tensor:
    r"""Mix the aggregates of T tasks by gates, weigh relations, add up: for S target tasks at once.

    .. math::
        g_{v,r,t,s} &= \mathrm{softmax}_t(l_{v,r,t,s}), \quad m_{v,r,s} = \sum_t g_{v,r,t,s} z_{v,r,t}, \\
        a_{v,r,s} &= \mathrm{softmax}_r(w_s \cdot m_{v,r,s}), \quad
        y_{v,s} = \mathrm{act}\Big(\sum_r a_{v,r,s} m_{v,r,s} + h_{v,s}\Big)

    With R = 1, T experts and S tasks it is the mixture of experts of MMoE and PLE.

    Args:
        z: [N, R, T, d], an aggregate for each node, relation and task; float32, float64, bfloat16 or float16. The
            rows of :class:`fastgmtl.hetero.Packed` come as [N * R, T, d]: ``z.unflatten(0, (-1, R))``.
        logits: l, [N, R, T, S]: how much target s takes from task t.
        weight: w, [S, d]; None weighs the relations of a node equally.
        residual: h, [N, S, d], or None.
        mask: bool [N, R], or None: False leaves a relation of a node out of the softmax over relations. A node
            without relations has the sum 0. Without a mask a relation without edges takes part with m = 0, as in
            StrucHIS.
        activation: "none", "relu" or "elu".

    Returns:
        y [N, S, d], of the promoted dtype of the tensors. Sums are accumulated in float32 (float64 for float64), in a
        fixed order.

    Differentiable to any order. Forward and backward read z once and write no other tensor of its size but its
    gradient; the second derivative is a composition of PyTorch's operators. On GPUs R * T * S and S * d are limited by
    shared memory (about 3000 together); an error says so.

    Source: StrucHIS, steps 2 and 3 of its layer.

    Raises:
        TypeError: a tensor is not floating point, mask is not bool.
        ValueError: a shape, a device or the activation does not fit.
    """
    one_of("relation_gate", "activation", activation, tuple(ACTIVATIONS))
    floating_tensor("relation_gate", "z", z)
    if z.dim() != 4:
        raise ValueError(f"relation_gate: z must have shape [N, R, T, d], got {list(z.shape)}")
    nodes, relations, tasks, width = z.shape
    floating_tensor("relation_gate", "logits", logits)
    if logits.dim() != 4 or logits.shape[:3] != z.shape[:3]:
        wanted = f"[N, R, T, S] = [{nodes}, {relations}, {tasks}, S]"
        raise ValueError(f"relation_gate: logits must have shape {wanted}, got {list(logits.shape)}")
    targets, dtype = logits.size(3), torch.promote_types(z.dtype, logits.dtype)
    for name, value, letters, shape in (
        ("weight", weight, "[S, d]", (targets, width)),
        ("residual", residual, "[N, S, d]", (nodes, targets, width)),
    ):
        if value is not None:
            floating_tensor("relation_gate", name, value)
            _shape(name, value, letters, shape)
            dtype = torch.promote_types(dtype, value.dtype)
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            given = str(mask.dtype).removeprefix("torch.") if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"relation_gate: mask must be a tensor of bool or None, got {given}")
        _shape("mask", mask, "[N, R]", (nodes, relations))
    for other in (logits, weight, residual, mask):
        if other is not None and other.device != z.device:
            raise ValueError(f"relation_gate: tensors must be on one device, got {z.device} and {other.device}")
    weight, residual = (None if v is None else v.to(dtype) for v in (weight, residual))
    z, logits = z.to(dtype), logits.to(dtype)
    if backend.kernels_for(z.device) is None:
        return reference.relation_gate(z, logits, weight, residual, mask, activation)
    return relation_gate_op(None, z, logits, weight, residual, mask, activation)


def _shape(name: str, value: Tensor, letters: str, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise ValueError(f"relation_gate: {name} must have shape {letters} = {list(shape)}, got {list(value.shape)}")


def _contiguous(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.contiguous()


def _places(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.to(torch.int32, memory_format=torch.contiguous_format)


def _activation_backward(grad: Tensor, y: Tensor, activation: str) -> Tensor:
    """The gradient before the activation whose result is ``y``; differentiable in both."""
    if activation == "none":
        return grad
    if activation == "relu":
        return torch.ops.aten.threshold_backward(grad, y, 0)
    return torch.ops.aten.elu_backward(grad, 1.0, 1.0, 1.0, True, y)


class _RelationGate(Operator):
    name = "relation_gate"
    tensors = ("z", "logits", "weight", "residual", "mask")
    options = (("activation", "str"),)
    takes_graph = False
    saves_outputs = True
    differentiable_outputs = True

    @staticmethod
    def kernel(
        kernels: Any, _: None, z: Any, logits: Any, weight: Any, residual: Any, mask: Any, activation: str
    ) -> Tensor:
        y = z.new_empty(z.size(0), logits.size(3), z.size(3))
        kernels.relation_gate(
            z.contiguous(),
            logits.contiguous(),
            _contiguous(weight),
            _contiguous(residual),
            _places(mask),
            list(ACTIVATIONS).index(activation),
            y,
            torch.get_num_threads(),
        )
        return y

    @staticmethod
    def reference(_: None, *args: Any) -> Tensor:
        return reference.relation_gate(*args)

    @staticmethod
    def fake(_: None, z: Any, logits: Any, *rest: Any) -> Tensor:
        return z.new_empty(z.size(0), logits.size(3), z.size(3))

    @staticmethod
    def saved(ctx: Any, *tensors: Tensor | None) -> Any:
        z, logits, weight, _, mask = tensors
        return z, logits, weight, None, mask

    @staticmethod
    def backward(
        call: Any,
        needs: Any,
        grads: Any,
        outputs: Any,
        _: None,
        z: Any,
        logits: Any,
        weight: Any,
        residual: Any,
        mask: Any,
        activation: str,
    ) -> Any:
        (g,) = grads
        if g is None:
            return (None,) * 5
        u = _activation_backward(g, outputs[0], activation)
        if not any(needs[:3]):
            return None, None, None, u, None
        d_z, d_logits, d_weight = call(relation_gate_backward_op)(None, u, z, logits, weight, mask)
        return d_z, d_logits, None if weight is None else d_weight, u if needs[3] else None, None

    @staticmethod
    def vmap(size: int, dims: Any, _: None, *args: Any) -> Any:
        return fold.each(relation_gate_op, size, dims, args)


class _RelationGateBackward(Operator):
    """Gradients of z, logits and weight for u, the gradient of the sum over relations."""

    name = "relation_gate_backward"
    tensors = ("u", "z", "logits", "weight", "mask")
    options = ()
    takes_graph = False
    num_outputs = 3

    @staticmethod
    def kernel(kernels: Any, _: None, u: Any, z: Any, logits: Any, weight: Any, mask: Any) -> Any:
        out = d_z, d_logits, d_weight = _RelationGateBackward.fake(_, u, z, logits, weight, mask)
        partial = None
        if weight is not None:
            wide = torch.float64 if z.dtype == torch.float64 else torch.float32
            rows = min(z.size(0), PARTIAL_ROWS[z.is_cuda])
            partial = torch.empty(rows, *weight.shape, dtype=wide, device=z.device)
        kernels.relation_gate_backward(
            u.contiguous(),
            z.contiguous(),
            logits.contiguous(),
            _contiguous(weight),
            _places(mask),
            d_z,
            d_logits,
            None if weight is None else d_weight,
            partial,
            torch.get_num_threads(),
        )
        return out

    @staticmethod
    def reference(_: None, *args: Any) -> Any:
        return backward_twin(*args)

    @staticmethod
    def fake(_: None, u: Any, z: Any, logits: Any, weight: Any, mask: Any) -> Any:
        def like(value: Tensor) -> Tensor:
            return torch.empty_like(value, memory_format=torch.contiguous_format)

        return like(z), like(logits), z.new_empty(0) if weight is None else like(weight)

    @staticmethod
    def backward(
        call: Any, needs: Any, grads: Any, outputs: Any, _: None, u: Any, z: Any, logits: Any, weight: Any, mask: Any
    ) -> Any:
        return (*second(grads, u, z, logits, weight, mask), None)

    @staticmethod
    def vmap(size: int, dims: Any, _: None, *args: Any) -> Any:
        return fold.each(relation_gate_backward_op, size, dims, args)


def second(
    grads: Any, u: Tensor, z: Tensor, logits: Tensor, weight: Tensor | None, mask: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Gradients of u, z, logits and weight for those of relation_gate_backward's outputs, in plain PyTorch.

    The lines of its twin (fastgmtl/reference/relation_gate.py) in reverse order; ``x_hat`` is the gradient of x.
    Products and sums instead of einsum, which the batched tensors of ``is_grads_batched`` do not know.
    """
    dtype, wide = z.dtype, torch.float64 if z.dtype == torch.float64 else torch.float32
    p, q, k = (None if g is None else g.to(wide) for g in grads)
    gate, mixed, share = gates(z, logits, weight, mask)
    u, z, w = u.to(wide).unsqueeze(1), z.to(wide), None if weight is None else weight.to(wide)
    along = (u * mixed).sum(-1)
    centred = along - (share * along).sum(1, keepdim=True)
    d_score = (share * centred).unsqueeze(-1)
    d_mixed = share.unsqueeze(-1) * u
    if w is not None:
        d_mixed = d_mixed + d_score * w

    gate_hat, d_mixed_hat, z_hat = torch.zeros_like(gate), torch.zeros_like(mixed), torch.zeros_like(z)
    if q is not None:  # d_logits = gate (d_gate - sum_t gate d_gate), d_gate = <d_mixed, z>
        d_gate = z @ d_mixed.mT
        inner = (gate * q).sum(2, keepdim=True)
        d_gate_hat = gate * (q - inner)
        gate_hat = q * (d_gate - (gate * d_gate).sum(2, keepdim=True)) - d_gate * inner
        d_mixed_hat = d_gate_hat.mT @ z
        z_hat = d_gate_hat @ d_mixed
    if p is not None:  # d_z = sum_s gate d_mixed
        gate_hat = gate_hat + p @ d_mixed.mT
        d_mixed_hat = d_mixed_hat + gate.mT @ p
    # d_mixed = share u + d_score w, and d_weight = sum_nr d_score mixed
    u_hat = (share.unsqueeze(-1) * d_mixed_hat).sum(1)
    mixed_hat, w_hat = torch.zeros_like(mixed), None
    if w is not None:
        w_hat = (d_score * d_mixed_hat).sum((0, 1))
        share_hat = (d_mixed_hat * u).sum(-1)
        d_score_hat = (d_mixed_hat * w).sum(-1)
        if k is not None:
            d_score_hat = d_score_hat + (k * mixed).sum(-1)
            mixed_hat = d_score * k
        # d_score = share (along - sum_r share along), along = <u, mixed>
        spread = (share * d_score_hat).sum(1, keepdim=True)
        share_hat = share_hat + d_score_hat * centred - along * spread
        along_hat = (share * (d_score_hat - spread)).unsqueeze(-1)
        u_hat = u_hat + (along_hat * mixed).sum(1)
        # share = softmax_r(<w, mixed>)
        score_hat = (share * (share_hat - (share * share_hat).sum(1, keepdim=True))).unsqueeze(-1)
        w_hat = w_hat + (score_hat * mixed).sum((0, 1))
        mixed_hat = mixed_hat + along_hat * u + score_hat * w
    # mixed = sum_t gate z, gate = softmax_t(logits)
    gate_hat = gate_hat + z @ mixed_hat.mT
    z_hat = z_hat + gate @ mixed_hat
    logits_hat = gate * (gate_hat - (gate * gate_hat).sum(2, keepdim=True))
    found = (u_hat, z_hat, logits_hat, w_hat)
    return tuple(None if value is None else value.to(dtype) for value in found)


relation_gate_op = _RelationGate()
relation_gate_backward_op = _RelationGateBackward()
