r"""The meta-learning step of SAME.

For every task :math:`\tau` of an episode, from the same parameters :math:`\theta`:

.. math::
    \phi_0 = \theta_\Phi, \quad \phi_{k+1} = \phi_k - \alpha_\tau \nabla_\phi L_\tau(\phi_k; S_\tau), \quad
    O_\tau = L_\tau(\phi_K; T_\tau)

with :math:`\Phi` the task's head (eSAME) or encoder and head (iSAME). The losses :math:`O_\tau` are differentiable in
:math:`\theta` through the inner steps, second order included.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fastgmtl.methods.same import fused
from fastgmtl.methods.same.episodes import Episode
from fastgmtl.methods.same.inner import Adapt, Rates, head_only, whole
from fastgmtl.methods.same.model import Model


def meta_step(
    model: Model,
    episode: Episode,
    inner_lr: float | Mapping[str, Tensor] = 0.04,
    *,
    adapt: Adapt = "all",
    inner_steps: int = 1,
    first_order: bool = False,
) -> dict[str, Tensor]:
    """Outer loss of each task of the episode, after adaptation; ``sum(losses.values()).backward()`` is the meta-step.

    Args:
        model: encoder and heads.
        episode: support and target sets; those of :func:`fastgmtl.methods.same.episodes.episodes`.
        inner_lr: alpha, one for all tasks or a scalar tensor for each, which may require grad.
        adapt: what the inner steps change: "all" (iSAME) or "heads" (eSAME).
        inner_steps: how many, at least 1.
        first_order: take the inner gradients for constants: no Hessian-vector product.

    An :class:`Encoder` without batch norm takes the hand-derived way (:mod:`fastgmtl.methods.same.fused`), with the
    graphs of all tasks in one block-diagonal pass; any other encoder goes through autograd (:func:`by_autograd`).
    """
    if adapt not in ("all", "heads"):
        raise ValueError(f"meta_step: adapt must be all or heads, got {adapt!r}")
    if inner_steps < 1:
        raise ValueError(f"meta_step: inner_steps must be at least 1, got {inner_steps}")
    unknown = [name for name in episode.parts if name not in model.heads]
    if unknown:
        raise ValueError(f"meta_step: the model has heads for {', '.join(model.heads)}, not for task {unknown[0]}")
    rates = {name: inner_lr[name] if isinstance(inner_lr, Mapping) else inner_lr for name in episode.parts}
    way = fused.step if fused.fits(model.encoder) else by_autograd
    return way(model, episode, rates, adapt, inner_steps, first_order)


def by_autograd(
    model: Model,
    episode: Episode,
    rates: Rates,
    adapt: Adapt,
    inner_steps: int,
    first_order: bool,
) -> dict[str, Tensor]:
    """:func:`meta_step` for any encoder: double backward through the operators. It defines what the fused way gives."""
    if adapt == "heads":
        h = model.encoder(episode.union.x, episode.union.graph)
        return {
            name: head_only(model.heads[name], part, (h[left], h[right]), rates[name], inner_steps, first_order)
            for (name, part), (left, right) in zip(episode.parts.items(), episode.union_rows.values(), strict=True)
        }
    return {
        name: whole(model.encoder, model.heads[name], part, rates[name], inner_steps, first_order)
        for name, part in episode.parts.items()
    }
