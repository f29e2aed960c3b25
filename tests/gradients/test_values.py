"""Every aggregator against the vectors themselves: the published loops over P, or the conditions of its optimum."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from compare import case
from matrices import draws, full_rank, low_rank
from torch import Tensor

from fastgmtl import gradients

DRAWS = [*draws(full_rank), *draws(low_rank)]
FULL = list(draws(full_rank))


def order_of(j: Tensor, seed: int) -> Tensor:
    return torch.stack(
        [torch.randperm(len(j), generator=torch.Generator().manual_seed(100 * seed + i)) for i in range(len(j))]
    )


def same(got: Tensor, want: Tensor, j: Tensor, tolerance: float = 1e-10) -> None:
    """Relative to the longest gradient: an update may be next to nothing."""
    assert float((got - want).norm()) <= tolerance * max(float(want.norm()), float(j.norm(dim=1).max()))


# ---------------------------------------------------------------------------------------------- loops over P


def pcgrad(j: Tensor, order: Tensor) -> Tensor:
    rows = j.clone()
    for i in range(len(j)):
        for k in order[i].tolist():
            if k != i and rows[i] @ j[k] < 0:
                rows[i] -= (rows[i] @ j[k]) / (j[k] @ j[k]) * j[k]
    return rows.sum(0)


def gradvac(j: Tensor, order: Tensor, beta: float, goal: Tensor) -> Tensor:
    rows = j.clone()
    for i in range(len(j)):
        for k in order[i].tolist():
            if k == i:
                continue
            g, h, hat = rows[i], j[k], goal[i, k].clone()
            phi = g @ h / (g.norm() * h.norm())
            if phi < hat:
                a = (
                    g.norm()
                    * (hat * (1 - phi**2).sqrt() - phi * (1 - hat**2).sqrt())
                    / (h.norm() * (1 - hat**2).sqrt())
                )
                rows[i] = g + a * h
            goal[i, k] = (1 - beta) * hat + beta * phi
    return rows.sum(0)


def to_plane(g: Tensor, t: Tensor) -> Tensor:
    return g - (g @ t) / (t @ t) * t if g @ t < 0 else g


def turned(g: Tensor, t: Tensor, omega: float) -> Tensor:
    if g @ t >= 0:
        return g
    u = t / t.norm()
    v = g - (g @ u) * u
    v /= v.norm()
    angle = (g @ u / g.norm()).acos()
    angle -= omega * (angle - torch.pi / 2)
    return g.norm() * (angle.cos() * u + angle.sin() * v)


@pytest.mark.parametrize("order", ["given", "none"])
def test_pcgrad(order: str) -> None:
    for k, j in enumerate(DRAWS):
        given = order_of(j, k) if order == "given" else torch.arange(len(j)).expand(len(j), -1)
        with case(k):
            same(gradients.PCGrad(given if order == "given" else "none")(j), pcgrad(j, given), j)
            same(gradients.PCGrad(given, "mean")(j), pcgrad(j, given) / len(j), j)


def test_gradvac_over_steps() -> None:
    for k, j in enumerate(FULL):
        order, goal = order_of(j, k), torch.zeros(len(j), len(j), dtype=torch.float64)
        aggregator = gradients.GradVac(0.3, order)
        for step in range(4):
            moved = j * (1 + 0.3 * step) + 0.5 * step * j.flip(0)
            with case(k, step):
                same(aggregator(moved), gradvac(moved, order, 0.3, goal), moved, 1e-9)
                torch.testing.assert_close(aggregator.cosine, goal, rtol=0, atol=1e-9)


def test_gradvac_without_goals_is_pcgrad() -> None:
    for k, j in enumerate(FULL):
        order = order_of(j, k)
        same(gradients.GradVac(0.0, order)(j), gradients.PCGrad(order)(j), j)


def test_target_family() -> None:
    for k, j in enumerate(FULL):
        t, norm = j[0], j.norm(dim=1)
        omega = torch.linspace(0.2, 1, len(j), dtype=torch.float64)
        share = (norm[0] / norm).clamp(max=1)
        want = {
            gradients.TargetPCGrad(): [to_plane(g, t) for g in j[1:]],
            gradients.RCGrad(len(j)): [(s + w) / 2 * to_plane(g, t) for g, s, w in zip(j, share, omega, strict=True)][
                1:
            ],
            gradients.RCGrad(len(j), rotate=True): [
                turned(g, t, w) for g, w in zip(j[1:], omega.tolist()[1:], strict=True)
            ],
            gradients.GCS(): [max(0.0, float(g @ t / (g.norm() * t.norm()))) * g for g in j[1:]],
            gradients.GCS(hard=True): [g * float(g @ t >= 0) for g in j[1:]],
            gradients.GNS(): [min(1.0, float(t.norm() / g.norm())) * g for g in j[1:]],
        }
        for aggregator, rest in want.items():
            if isinstance(aggregator, gradients.RCGrad):
                aggregator.omega.data.copy_(omega)
            with case(k, aggregator):
                same(aggregator(j), t + sum(rest), j)
                moved = type(aggregator).__new__(type(aggregator))
                moved.__dict__.update(aggregator.__dict__)
                moved.target = -1
                if not isinstance(aggregator, gradients.RCGrad):
                    same(moved(j.roll(-1, 0)), t + sum(rest), j)


def test_metabalance_over_steps() -> None:
    for strategy in gradients.MetaBalance.STRATEGIES:
        aggregator, kept = gradients.MetaBalance(1, 0.6, 0.8, strategy), None
        for step, j in enumerate(list(draws(full_rank, 3))[:6]):
            parts = [j[:3, :2], j[:3, 2:7]]
            now = torch.stack([p.norm(dim=1) for p in parts])
            kept = now if kept is None else 0.8 * kept + 0.2 * now
            for part, norm, got in zip(parts, kept, aggregator(parts), strict=True):
                ratio = norm[1] / norm
                if strategy == "reduce":
                    ratio = ratio.clamp(max=1)
                elif strategy == "enlarge":
                    ratio = ratio.clamp(min=1)
                weights = 0.4 + 0.6 * ratio
                weights[1] = 1
                with case(strategy, step):
                    same(got, weights @ part, part)


def test_krum() -> None:
    for squared in (False, True):
        for k, j in enumerate(draws(full_rank, 6)):
            distance = torch.cdist(j, j)
            distance = distance**2 if squared else distance
            scores = [distance[i].sort().values[1 : len(j) - 2].sum() for i in range(len(j))]
            best = torch.stack(scores).argsort()[:2]
            with case(k, squared):
                same(gradients.Krum(1, 2, squared)(j), j[best].mean(0), j)


def test_graddrop() -> None:
    for k, j in enumerate(FULL):
        leak = torch.linspace(0, 1, len(j), dtype=torch.float64)
        draw = torch.rand(j.size(1), generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        positive = (0.5 * (1 + j.sum(0) / j.abs().sum(0))) ** 2
        mask = ((positive > draw) & (j > 0)) | ((positive < draw) & (j < 0))
        want = ((leak.unsqueeze(1) + (1 - leak.unsqueeze(1)) * mask) * j).sum(0)
        with case(k):
            generator = torch.Generator().manual_seed(k)
            same(gradients.GradDrop(lambda p: p**2, leak, generator)(j), want, j)


# ------------------------------------------------------------------------------------------ conditions of optima


def test_mgda_is_the_point_of_least_norm() -> None:
    for k, j in enumerate(DRAWS):
        w = gradients.MGDA().weights(j @ j.T)
        d, norm = w @ j, j.norm(dim=1)
        with case(k):
            assert (w >= 0).all() and abs(float(w.sum()) - 1) < 1e-12
            # No gradient has less of d than d itself.
            assert (j @ d >= d @ d - 1e-10 * norm * norm.max()).all()


def projected(j: Tensor, lower: Tensor, v: Tensor) -> None:
    """v is the argmin of |J^T v| over v >= lower: nothing is gained by more of a task, nothing lost by less of one."""
    d, norm = v @ j, j.norm(dim=1)
    slack, size = v - lower, norm * float((v.abs() * norm).sum())
    assert (slack >= 0).all()
    assert (j @ d >= -1e-10 * size).all()
    assert (slack * (j @ d) <= 1e-10 * size * slack.max()).all()


def test_dualproj_and_upgrad_are_projections() -> None:
    for k, j in enumerate(DRAWS):
        p = torch.linspace(0.1, 1, len(j), dtype=torch.float64)
        gram = j @ j.T
        with case(k):
            projected(j, p, gradients.DualProj(p).weights(gram))
            parts = [gradients.DualProj(row).weights(gram) for row in p.diag()]
            for lower, part in zip(p.diag(), parts, strict=True):
                projected(j, lower, part)
            same(gradients.UPGrad(p).weights(gram) @ j, sum(parts) @ j, j)


def test_cagrad_is_the_best_of_the_ball() -> None:
    for c in (0.0, 0.1, 0.5, 0.9, 1.0, 3.0):
        for k, j in enumerate(FULL):
            w, mean = gradients.CAGrad(c).weights(j @ j.T), j.mean(0)
            d, extra = w @ j, w - 1 / len(j)
            with case(c, k):
                radius = float((d - mean).norm())
                assert abs(radius - c * float(mean.norm())) <= 1e-9 * float(mean.norm())
                # The gradients that push are those along which d gains least: the optimum of the dual.
                assert (extra >= -1e-12).all()
                gains, pushes = j @ d, extra > 1e-12
                size = float(j.norm(dim=1).max() * d.norm())
                if c:
                    assert float(gains[pushes].max() - gains.min()) <= 1e-9 * size
            same(gradients.CAGrad(c, rescale=True)(j), d / (1 + c**2), j)


def test_nashmtl_and_fairgrad_solve_their_equations() -> None:
    for k, j in enumerate(FULL):
        gram = j @ j.T
        with case(k):
            w = gradients.NashMTL(max_norm=0).weights(gram)
            torch.testing.assert_close(w * (gram @ w), torch.ones_like(w), rtol=1e-9, atol=0)
            assert abs(float((w @ j).norm()) - len(j) ** 0.5) < 1e-9
            assert abs(float(gradients.NashMTL(max_norm=0.5)(j).norm()) - 0.5) < 1e-9
            for alpha in (0.3, 1.0, 2.0, 10.0):
                w = gradients.FairGrad(alpha).weights(gram)
                torch.testing.assert_close(gram @ w, w ** (-1 / alpha), rtol=1e-9, atol=0)
            torch.testing.assert_close(gradients.FairGrad(0.0).weights(gram), torch.full_like(w, 1 / len(w)))


def test_imtlg_has_equal_angles_and_goes_down() -> None:
    negative = 0
    for k, j in enumerate(FULL):
        with case(k):
            d = gradients.IMTLG()(j)
            along = j @ d / j.norm(dim=1)
            assert (along > 0).all()
            torch.testing.assert_close(along, along[:1].expand(len(j)), rtol=1e-8, atol=0)
            published = gradients.IMTLG(guard=False)(j)
            same(published.abs(), d.abs(), j, 1e-9)
            negative += bool((j @ published < 0).all())
            v = torch.linalg.solve(j @ j.T, j.norm(dim=1))
            same(published, v / v.sum() @ j, j, 1e-7)
    j = torch.tensor([[1.0, 0.0], [-10.0, 1.0]], dtype=torch.float64)  # 1^T v < 0 takes unequal norms
    j = torch.cat([j, torch.tensor([[-30.0, 2.0]])], 0)[:2]
    v = torch.linalg.solve(j @ j.T, j.norm(dim=1))
    assert (float(v.sum()) < 0) == bool((j @ gradients.IMTLG(guard=False)(j) < 0).all())
    assert (j @ gradients.IMTLG()(j) > 0).all()


def test_alignedmtl_has_equal_principal_components() -> None:
    for mode, of in {"min": torch.min, "median": torch.median, "rmse": torch.mean}.items():
        for k, j in enumerate(FULL):
            p = torch.linspace(0.1, 1, len(j), dtype=torch.float64)
            u, s, v = torch.linalg.svd(j, full_matrices=False)
            with case(mode, k):
                same(gradients.AlignedMTL(p, mode)(j), of(s**2).sqrt() * (p @ u) @ v, j, 1e-6)


def test_config_is_the_pseudoinverse() -> None:
    for k, j in enumerate(DRAWS):
        p = torch.linspace(0.1, 1, len(j), dtype=torch.float64)
        best = torch.linalg.pinv(j / j.norm(dim=1, keepdim=True)) @ p
        best /= best.norm()
        with case(k):
            same(gradients.ConFIG(p)(j), (j @ best).sum() * best, j, 1e-6)


def test_two_tasks() -> None:
    """P17: PCGrad is UPGrad with a preference of ones; the weights of MGDA have a closed form."""
    for k, j in enumerate(j for j in FULL if len(j) == 2):
        with case(k):
            same(gradients.PCGrad()(j), gradients.UPGrad(torch.ones(2, dtype=torch.float64))(j), j)
            gram = j @ j.T
            share = ((gram[1, 1] - gram[0, 1]) / (gram[0, 0] + gram[1, 1] - 2 * gram[0, 1])).clamp(0, 1)
            torch.testing.assert_close(gradients.MGDA().weights(gram)[0], share, rtol=1e-10, atol=1e-12)


# -------------------------------------------------------------------------------------------------- scale


@pytest.mark.parametrize("scale", [1e-15, 1e-8, 1e-3, 1e3, 1e8, 1e15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_any_scale(scale: float, dtype: torch.dtype) -> None:
    """A Jacobian on which absolute constants show, in float32 too: 1e15 and 1e-15 squared are within its range."""
    base = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], dtype=dtype)
    for make in (gradients.UPGrad, gradients.DualProj, gradients.CAGrad, gradients.MGDA, gradients.PCGrad,
                 gradients.GradVac, gradients.IMTLG, gradients.AlignedMTL, gradients.ConFIG):  # fmt: skip
        got, want = make()(base * scale) / scale, make()(base)  # type: ignore[operator]
        torch.testing.assert_close(got, want, rtol=2e-5, atol=1e-5)
    w = gradients.NashMTL()(base * scale)
    torch.testing.assert_close(w, gradients.NashMTL()(base), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("spread", [1e-12, 1e12])
def test_tasks_of_very_different_norms(spread: float) -> None:
    """Methods that see directions alone give what they give for the unit gradients, in their own measure."""
    for k, j in enumerate(FULL):
        c = torch.ones(len(j), 1, dtype=torch.float64)
        c[0] = spread
        with case(k):
            for make in (gradients.IMTLG, gradients.ConFIG, gradients.NashMTL):
                d, e = make()(j), make()(c * j)
                same(e / e.norm(), d / d.norm(), torch.ones(1, 1), 1e-6)
            d = gradients.MGDA()(c * j)
            assert (c * j @ d >= -1e-9 * (c * j).norm(dim=1) * d.norm()).all()
            projected(
                c * j, torch.ones(len(j)).double(), gradients.DualProj(torch.ones(len(j))).weights((c * j) @ (c * j).T)
            )


# -------------------------------------------------------------------------------------------------- TorchJD

JD: dict[str, Callable[[], tuple[gradients.Aggregator, str, dict[str, object]]]] = {
    "Mean": lambda: (gradients.Mean(), "Mean", {}),
    "Sum": lambda: (gradients.Sum(), "Sum", {}),
    "UPGrad": lambda: (gradients.UPGrad(), "UPGrad", {"projector": 1e-14}),
    "DualProj": lambda: (gradients.DualProj(), "DualProj", {"projector": 1e-14}),
    "IMTLG": lambda: (gradients.IMTLG(guard=False), "IMTLG", {}),
    "AlignedMTL": lambda: (gradients.AlignedMTL(), "AlignedMTL", {}),
    "AlignedMTL median": lambda: (gradients.AlignedMTL(scale_mode="median"), "AlignedMTL", {"scale_mode": "median"}),
    "AlignedMTL rmse": lambda: (gradients.AlignedMTL(scale_mode="rmse"), "AlignedMTL", {"scale_mode": "rmse"}),
    "ConFIG": lambda: (gradients.ConFIG(), "ConFIG", {}),
    "FairGrad": lambda: (gradients.FairGrad(2.0), "FairGrad", {"alpha": 2.0}),
    "Krum": lambda: (gradients.Krum(1), "Krum", {"n_byzantine": 1}),
}


@pytest.mark.skipif(find_spec("torchjd") is None, reason="needs torchjd")
@pytest.mark.parametrize("name", JD)
def test_torchjd(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchjd import aggregation, linalg

    ours, theirs, options = JD[name]()
    if "projector" in options:
        if find_spec("quadprog") is None:
            pytest.skip("needs quadprog")
        eps = options["projector"]
        options["projector"] = linalg.QuadprogProjector(norm_eps=0.0, reg_eps=eps)
    peer = getattr(aggregation, theirs)(**options)
    for k, j in enumerate(draws(full_rank, 4)):
        with case(k):
            same(ours(j), peer(j), j, 1e-6)


@pytest.mark.skipif(find_spec("torchjd") is None, reason="needs torchjd")
def test_torchjd_with_orders_drawn() -> None:
    """PCGrad and GradVac, over steps, with the permutations that TorchJD draws."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchjd import aggregation
    for k, j in enumerate(FULL):
        torch.manual_seed(k)
        want = aggregation.PCGrad()(j)
        torch.manual_seed(k)
        order = torch.stack([torch.randperm(len(j)) for _ in j])
        same(gradients.PCGrad(order)(j), want, j)
        peer, ours = aggregation.GradVac(eps=0.0), None
        for step in range(3):
            torch.manual_seed(step)
            want = peer(j + step * j.flip(0))
            torch.manual_seed(step)
            others = [[m for m in range(len(j)) if m != i] for i in range(len(j))]
            drawn = [[rest[p] for p in torch.randperm(len(rest)).tolist()] for rest in others]
            order = torch.tensor([[*row, i] for i, row in enumerate(drawn)])
            moved = gradients.GradVac(0.5, order)
            if ours is not None:
                moved.load_state_dict(ours.state_dict())
            ours = moved
            with case(k, step):
                same(ours(j + step * j.flip(0)), want, j, 1e-7)
