"""Auxiliary learning on molecules: every strategy against its formula, what is learned, what is refused.

The checklist of RCGrad: (a) to (f) are marked in the names of tests.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgmtl.data.molecules import Molecules
from fastgmtl.methods import METHODS, Trainer
from fastgmtl.methods.auxiliary import Auxiliary
from fastgmtl.methods.bilevel import Bilevel, hypergradient, neumann

SMALL = {"hidden": 4, "layers": 2, "dropout": 0.0, "batch": 16, "pretrained": "none"}
STRATEGIES = [name for name in METHODS if issubclass(METHODS[name], Auxiliary)]
VARIANTS = [
    (name, variant)
    for name in STRATEGIES
    for variant in (("as_released", "as_described") if "rcgrad" in name else (None,))
]


def build(data: Molecules, name: str, variant: str | None = None, **changes: Any) -> Any:
    changes |= {} if variant is None else {"variant": variant}
    config = METHODS[name].config_type(**{**SMALL, **changes})  # type: ignore[arg-type]
    torch.manual_seed(0)
    return METHODS[name].build(data, config, torch.Generator().manual_seed(0))


@pytest.fixture
def data(make_molecules: Callable[..., Molecules]) -> Molecules:
    return make_molecules(60)


class Linear:
    """Losses whose gradients are given vectors: of the encoder g_t, the rows of a matrix [T, P], of heads t + 1."""

    def __init__(self, method: Auxiliary, seed: int = 0, norms: tuple[float, float] = (-1, 1)) -> None:
        method.double()
        self.method, tasks = method, len(method.names)
        generator = torch.Generator().manual_seed(seed)
        size = sum(p.numel() for p in method.shared)
        common = torch.randn(size, generator=generator, dtype=torch.float64)
        spread = torch.randn(tasks, size, generator=generator, dtype=torch.float64)
        side = torch.tensor([1.0, -1, 1, -1, -1, 1])[:tasks]
        scale = torch.logspace(*norms, tasks)
        self.g = ((0.5 * side[:, None] * common + spread) * scale[:, None]).double()

    def losses(self, values: Tensor | None = None) -> dict[str, Tensor]:
        flat = torch.cat([p.reshape(-1) for p in self.method.shared])
        every = {}
        for t, (name, head) in enumerate(zip(self.method.names, self.method.heads(), strict=True)):
            loss = (self.g[t] * flat).sum() + sum((t + 1) * p.sum() for p in head)
            every[name] = loss if values is None else loss - loss.detach() + values[t]
        return every

    def found(self) -> Tensor:
        """The gradient of the encoder."""
        return torch.cat([p.grad.reshape(-1) for p in self.method.shared])  # type: ignore[union-attr]

    def head_scales(self) -> list[float]:
        """By which the gradients of each head were multiplied; NaN for a task without parameters."""
        scales = []
        for t, head in enumerate(self.method.heads()):
            values = {float(v) for p in head if p.grad is not None for v in (p.grad / (t + 1)).reshape(-1)}
            scales.append(values.pop() if len(values) == 1 else float("nan"))
        return scales


def projected(g: Tensor, i: int) -> Tensor:
    against = min(0.0, float(g[i] @ g[0]))
    return g[i] - against / (g[0] @ g[0]) * g[0]


def turned(g: Tensor, i: int, w: float) -> Tensor:
    u = g[0] / g[0].norm()
    cosine = g[i] @ u / g[i].norm()
    v = g[i] - (g[i] @ u) * u
    theta = cosine.acos()
    phi = w * (theta - torch.pi / 2).clamp(min=0)
    return g[i].norm() * ((theta - phi).cos() * u + (theta - phi).sin() * v / v.norm())


def direct(name: str, variant: str | None, g: Tensor, w: Tensor, phi: Tensor) -> Tensor:
    """The update, vector by vector. w, phi: the learned numbers [T]."""
    n = g.norm(dim=1)
    cosine = g @ g[0] / (n * n[0])
    rest = range(1, len(g))
    if name == "finetune":
        return g[0]
    if name == "mtl":
        return g.sum(0)
    if name == "gcs":
        return g[0] + sum(max(0.0, float(cosine[i])) * g[i] for i in rest)
    if name == "gns":
        return g[0] + sum(min(1.0, float(n[0] / n[i])) * g[i] for i in rest)
    if name == "pcgrad":
        return g[0] + sum(projected(g, i) for i in rest)
    if name == "rcgrad" and variant == "as_described":
        return g[0] + sum(turned(g, i, float(w[i])) for i in rest)
    if "rcgrad" in name:
        share = phi if name == "blo+rcgrad" else w
        return g[0] + sum((min(1.0, float(n[0] / n[i])) + share[i]) / 2 * projected(g, i) for i in rest)
    factor = (cosine * n[0] / n).clamp(0, 1) if name == "blo+gns" else torch.ones_like(n)
    return g[0] + phi[0] * g[0] + sum(phi[i] * factor[i] * g[i] for i in rest)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_every_strategy_is_its_formula(data: Molecules, name: str, variant: str | None) -> None:
    method = build(data, name, variant)
    w, phi = torch.rand(6).double(), torch.rand(6).double()
    if name == "rcgrad":
        method.aggregator.omega.data.copy_(w)
    if name.startswith("blo"):
        method.phi.copy_(phi)
    if name == "stn":
        method.lam.copy_(phi.log())
    case = Linear(method)
    method.backward(case.losses())
    want = direct(name, variant, case.g, w, phi)
    torch.testing.assert_close(case.found(), want, rtol=1e-10, atol=1e-10 * float(want.abs().max()))
    signs = torch.sign(case.g @ case.g[0])
    assert name == "finetune" or {-1.0, 1.0} <= {*signs[1:].tolist()}
    own: dict[str, Tensor] = {"rcgrad as_released": w, "blo": phi, "blo+rcgrad": phi, "stn": phi}
    scale = own.get(f"{name} {variant}", own.get(name, torch.ones(6)))
    target = 1 + phi[0] if name in ("blo", "blo+gns", "stn") else torch.tensor(1.0)
    if name == "blo+gns":
        n = case.g.norm(dim=1)
        scale = phi * (case.g @ case.g[0] / n**2).clamp(0, 1)
    expected = [float(target), *scale[1:].tolist()][: len(method.names)]
    for number, (got, wanted) in enumerate(zip(case.head_scales(), expected, strict=True)):
        assert got == pytest.approx(wanted, rel=1e-6) or method.names[number] == "edges"


@pytest.mark.parametrize(("name", "variant"), [("pcgrad", None), ("rcgrad", "as_released"), ("rcgrad", "as_described")])
@pytest.mark.parametrize("seed", range(3))
def test_b_no_auxiliary_gradient_goes_against_the_target(
    data: Molecules, name: str, variant: str | None, seed: int
) -> None:
    """With one auxiliary task the update less g_0 is p_i, whose product with g_0 is not negative."""
    for auxiliary in ("masking", "motif"):
        method = build(data, name, variant, auxiliary=auxiliary)
        case = Linear(method, seed)
        method.backward(case.losses())
        p, target = case.found() - case.g[0], case.g[0]
        assert float(case.g[1] @ target) < 0
        assert float(p @ target / (p.norm() * target.norm())) >= -1e-6


def test_c_rcgrad_with_w_1_and_shorter_gradients_is_pcgrad(data: Molecules) -> None:
    found = []
    for name in ("pcgrad", "rcgrad"):
        case = Linear(build(data, name), norms=(0, -2))
        assert bool((case.g.norm(dim=1)[1:] <= case.g[0].norm()).all())
        case.method.backward(case.losses())
        found.append(case.found())
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


def test_d_the_released_scalar_falls_to_0_whatever_the_losses(make_molecules: Callable[..., Molecules]) -> None:
    """Three tasks whose losses are 1e-3, 1 and 1e4, and a twentieth of that up and down."""
    method = build(make_molecules(20), "rcgrad", hidden=2, layers=1, auxiliary="masking,infomax,motif")
    case, omega = Linear(method), method.aggregator.omega
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3, weight_decay=0)
    draw = torch.Generator().manual_seed(0)
    reached = torch.zeros(4)
    for step in range(1, 1201):
        noise = 1 + 0.05 * torch.randn(4, generator=draw, dtype=torch.float64)
        method.backward(case.losses(torch.tensor([0.7, 1e-3, 1.0, 1e4]) * noise))
        optimizer.step()
        reached = torch.where((omega.detach() <= 0) & (reached == 0), float(step), reached)
    assert bool(((reached[1:] >= 999) & (reached[1:] <= 1200)).all()), reached
    method.backward(case.losses())
    assert method.aggregator.omega.tolist() == [1.0, 0.0, 0.0, 0.0]


def test_e_hypergradient_of_a_quadratic() -> None:
    """L_t = theta A_t theta / 2 + b_t theta: the truncated series has a closed form."""
    torch.manual_seed(0)
    n, tasks, eta, terms = 7, 3, 0.3, 4
    a = torch.randn(tasks, n, n, dtype=torch.float64)
    a = a @ a.mT / n
    b = torch.randn(tasks, n, dtype=torch.float64)
    theta = torch.randn(n, dtype=torch.float64, requires_grad=True)
    parts = [theta[:3], theta[3:]]
    weights, validation = torch.rand(tasks).double(), torch.randn(n).double()
    split = [p.detach().clone().requires_grad_() for p in parts]
    whole = torch.cat(split)
    losses = [whole @ a[t] @ whole / 2 + b[t] @ whole for t in range(tasks)]
    found, gram = hypergradient(split, losses, weights, list(validation.split((3, 4))), terms, eta)
    h = torch.einsum("t,tij->ij", weights, a)
    power = torch.eye(n, dtype=torch.float64) - eta * h
    p = sum(torch.linalg.matrix_power(power, j) @ validation for j in range(terms + 1))
    g = torch.stack([a[t] @ theta.detach() + b[t] for t in range(tasks)])
    torch.testing.assert_close(found, -(g @ p), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gram, g @ g.T, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        hypergradient(split, [x.clone() for x in losses], weights, list(validation.split((3, 4))), 0, eta)[0],
        -(g @ validation),
    )


def test_the_series_tends_to_the_inverse() -> None:
    h = torch.diag(torch.tensor([0.2, 0.7, 1.1, 1.9]))
    v = torch.tensor([1.0, -2, 3, 4])
    (found,) = neumann([v], lambda parts: [h @ parts[0]], 300, 1.0)
    torch.testing.assert_close(found, torch.linalg.solve(h, v))


@pytest.mark.parametrize(("variant", "moves"), [("as_released", False), ("as_described", True)])
def test_f_phi_of_blo_rcgrad(data: Molecules, variant: str, moves: bool) -> None:
    config = METHODS["blo+rcgrad"].config_type(
        **SMALL,
        epochs=6,
        adapt_every=2,
        variant=variant,  # type: ignore[call-arg]
    )
    trainer = Trainer(METHODS["blo+rcgrad"], data, config, 0)
    list(trainer)
    phi = trainer.method.phi
    assert isinstance(phi, Tensor)
    assert bool((phi == 1 / 6).all()) != moves


def test_the_rotation_learns_by_the_loss_of_the_next_batch(data: Molecules) -> None:
    """Its gradient is the derivative of L_0(theta - lr g(w)) in w, per lr."""
    method = build(data, "rcgrad", "as_described")
    case, omega = Linear(method), method.aggregator.omega
    with torch.no_grad():
        omega.copy_(torch.linspace(0.2, 0.8, 6))
    method.backward(case.losses())
    assert not omega.grad.any()
    following = Linear(method, seed=5)
    method.backward(following.losses())
    step, got = 1e-5, omega.grad.clone()
    for i in range(1, 6):
        ends = []
        for sign in (1, -1):
            w = omega.detach().clone()
            w[i] += sign * step
            ends.append(-float(following.g[0] @ direct("rcgrad", "as_described", case.g, w, w)))
        assert float(got[i]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)
    assert float(got[0]) == 0 and bool(got.any())
    list(method.batches(data, torch.Generator()))
    method.backward(case.losses())
    assert not omega.grad.any()  # an epoch starts without a last step


def test_the_released_scalar_learns_by_its_loss(data: Molecules) -> None:
    method = build(data, "rcgrad", "as_released")
    case = Linear(method)
    values = torch.arange(1.0, 7).double()
    method.backward(case.losses(values))
    assert method.aggregator.omega.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_phi_goes_down_by_clipped_sgd_with_momentum(data: Molecules) -> None:
    method = build(data, "blo")
    phi, velocity = torch.full((6,), 1 / 6).double(), torch.zeros(6).double()
    for gradient in (torch.tensor([1.0, -2, 3, 0, 5, 200]), torch.tensor([3.0, 4, 0, 0, 0, 0])):
        norm = float(gradient.norm())
        velocity = 0.9 * velocity + gradient.double() * min(1.0, 25 / norm)
        phi = (phi - 1e-3 * velocity).clamp(min=0)
        method.descend(gradient.double())
        torch.testing.assert_close(method.phi, phi)
    for _ in range(10):
        method.descend(torch.full((6,), 25.0).double())
    assert method.phi.tolist() == [0.0] * 6


@pytest.mark.parametrize("name", ["blo", "blo+gns", "blo+rcgrad"])
def test_a_meta_step_is_due_every_few_steps(data: Molecules, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(data, name, adapt_every=3)
    assert len(method.trained) + len(method.meta) == int(data.tasks["some"].split["train"].sum())
    assert len(method.trained) == int(0.8 * (len(method.trained) + len(method.meta)))
    assert int(method.trained.max()) < int(method.meta.min())
    due: list[int] = []
    real = Bilevel.meta_step

    def meta_step(self: Bilevel) -> None:
        due.append(int(self.taken))
        real(self)

    monkeypatch.setattr(Bilevel, "meta_step", meta_step)
    (batch, *_) = method.batches(data, torch.Generator().manual_seed(0))
    seen = []
    for _ in range(8):
        method.backward(method.step(batch))
        seen.append(method.phi.clone())
    assert due == [3, 6]
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    assert moved == [False, False, True, False, False, True, False]


def test_a_meta_step_is_the_hypergradient_of_held_out_molecules(data: Molecules) -> None:
    """Without terms of the series: phi moves by the products of the target's gradient there with all gradients here."""
    method = build(data, "blo", terms=0, batch=1000).eval()
    held, here = data.take(method.meta), data.take(method.trained)

    def gradient(batch: Molecules, number: int) -> Tensor:
        loss = list(method.step(batch).values())[number]
        grads = torch.autograd.grad(loss, method.shared, allow_unused=True, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in grads]).double()

    p = gradient(held, 0)
    want = torch.stack([-(p @ gradient(here, t)) for t in (0, 5)])  # they draw nothing
    method.meta_step()
    torch.testing.assert_close(method.velocity[[0, 5]], want, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "variant"), [*VARIANTS[2:6], ("rcgrad", "as_described"), ("blo", None), ("blo+gns", None), ("stn", None)]
)
def test_resume_is_exact(data: Molecules, name: str, variant: str | None) -> None:
    extra = {} if variant is None else {"variant": variant}
    extra |= {"adapt_every": 2} if name.startswith("blo") else {}
    config = METHODS[name].config_type(**{**SMALL, "dropout": 0.3}, epochs=4, **extra)  # type: ignore[arg-type]
    whole = Trainer(METHODS[name], data, config, 0)
    records = [(e.loss, e.score) for e in whole]
    first = Trainer(METHODS[name], data, config, 0)
    first.run_epoch()
    first.run_epoch()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = Trainer(METHODS[name], data, config, 1)
    second.load_state_dict(torch.load(file, weights_only=True))
    again = [(e.loss, e.score) for e in second]
    assert again == records[2:]
    states = whole.method.state_dict(), second.method.state_dict()
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_batches_are_the_training_molecules_once(data: Molecules) -> None:
    method = build(data, "finetune")
    generator = torch.Generator().manual_seed(0)
    count = len(method.trained)
    for size in (16, count - 1, count, 1000):
        method.config = dataclasses.replace(method.config, batch=size)
        batches = list(method.batches(data, generator))
        want = [size] * (count // size) + ([count % size] if count % size else [])
        if want[-1] == 1:
            want[-2:] = [sum(want[-2:])]
        assert [b.num_graphs for b in batches] == want
        seen = torch.cat([b.tasks["some"].target for b in batches])
        all_of_them = data.tasks["some"].target[method.trained]
        assert torch.equal(seen.nan_to_num(2).sort(0).values, all_of_them.nan_to_num(2).sort(0).values)


def test_evaluation_is_of_the_split(data: Molecules, monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(data, "finetune").eval()
    whole = torch.zeros(60, 2)
    everything = method.encoder(data.x.long(), method.encoder.bonds(data.graph, data.edge_type))
    for m in range(60):
        whole[m] = method.target(everything[data.node_graph == m].mean(0))
    monkeypatch.setattr("fastgmtl.methods.auxiliary.EVALUATED", 7)
    with torch.no_grad():
        for split in ("train", "val", "test"):
            assert method.evaluate(data, split)["some"] == pytest.approx(data.tasks["some"].score(whole, split))


def test_target_loss_is_the_mean_over_labels_that_are_there(data: Molecules) -> None:
    method = build(data, "finetune").eval()
    (batch, *_) = method.batches(data, torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = method.step(batch)["some"]
        h = method.encoder(batch.x.long(), method.encoder.bonds(batch.graph, batch.edge_type))
        out = torch.stack([method.target(h[batch.node_graph == m].mean(0)) for m in range(batch.num_graphs)]).double()
    y = batch.tasks["some"].target
    known = ~y.isnan()
    each = torch.nn.functional.binary_cross_entropy_with_logits(out[known], y[known].double())
    assert loss.dtype == torch.float64 and float(loss) == pytest.approx(float(each), rel=1e-5)
