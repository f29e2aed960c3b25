"""backward: what ends up in .grad, whichever way the gradients are found."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import cases
import pytest
import torch
from compare import case, close
from torch import Tensor, nn

import fastgmtl
from fastgmtl import Graph, gradients, ops

T = 3


class Model(nn.Module):
    """A trunk of two layers, a layer for the first two tasks, a head for each, one parameter for nobody."""

    def __init__(self, tasks: int = T) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.graph = Graph.from_edge_index(cases.random_edges(20, 20, 60, cases.generator("model")))
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 6)
        self.pair = nn.Linear(6, 6)
        self.heads = nn.ModuleList(nn.Linear(6, 1) for _ in range(tasks))
        self.unused = nn.Parameter(torch.ones(2))
        self.double()

    def features(self, x: Tensor) -> Tensor:
        return self.second(ops.spmm(self.graph, self.first(x).tanh()))

    def losses(self, z: Tensor) -> list[Tensor]:
        found = []
        for t, head in enumerate(self.heads):
            h = self.pair(z).tanh() if t < 2 else z
            found.append(((head(h).squeeze(1) - (-1) ** t * (t + 1)) ** 2).mean())
        return found


X = torch.randn(20, 5, generator=cases.generator("x"), dtype=torch.float64)


def reference(model: Model, method: Callable[[], gradients.Aggregator]) -> dict[str, Tensor]:
    """Plain autograd and one flat matrix."""
    named = dict(model.named_parameters())
    rows = []
    for t in range(len(model.heads)):
        loss = model.losses(model.features(X))[t]
        rows.append(torch.autograd.grad(loss, list(named.values()), allow_unused=True))
    count = [sum(row[n] is not None for row in rows) for n in range(len(named))]
    want = {}
    shared = [n for n, c in enumerate(count) if c > 1]
    parameters = list(named.values())
    flat = torch.stack(
        [
            torch.cat([(torch.zeros_like(parameters[n]) if row[n] is None else row[n]).flatten() for n in shared])
            for row in rows
        ]
    )
    update = method()(flat).split([parameters[n].numel() for n in shared])
    for n, name in enumerate(named):
        if count[n] == 1:
            want[name] = next(row[n] for row in rows if row[n] is not None)
        elif count[n] > 1:
            want[name] = update[shared.index(n)].reshape(parameters[n].shape)
    return want


def check(model: Model, want: dict[str, Tensor], factor: float = 1.0) -> None:
    for name, p in model.named_parameters():
        with case(name):
            assert (p.grad is None) == (name not in want)
            if p.grad is not None:
                close(p.grad, factor * want[name], torch.float64)


METHODS: dict[str, Callable[[], gradients.Aggregator]] = {
    "PCGrad": lambda: gradients.PCGrad("none"),
    "MGDA": gradients.MGDA,
    "Sum": gradients.Sum,
    "TargetPCGrad": gradients.TargetPCGrad,
}


@pytest.mark.parametrize("capture", gradients.capture.CAPTURES)
@pytest.mark.parametrize("name", METHODS)
def test_heads_get_plain_gradients_and_shared_parameters_the_update(name: str, capture: str) -> None:
    model = Model()
    want = reference(model, METHODS[name])
    report = fastgmtl.backward(model.losses(model.features(X)), model, METHODS[name](), capture=capture)
    check(model, want)
    # Once more: it adds up.
    fastgmtl.backward(model.losses(model.features(X)), model, METHODS[name](), capture=capture)
    check(model, want, 2)
    assert report.weights is not None and report.weights.shape == (T,) and report.cosines.shape == (T, T)


def test_sum_is_an_ordinary_backward() -> None:
    model, twin = Model(), Model()
    fastgmtl.backward(torch.stack(model.losses(model.features(X))), model.parameters(), gradients.Sum())
    sum(twin.losses(twin.features(X))).backward()  # type: ignore[union-attr]
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None and q.grad is not None:
            close(p.grad, q.grad, torch.float64)


def test_functions_have_one_graph_at_a_time() -> None:
    model = Model()
    want = reference(model, METHODS["PCGrad"])
    alive: list[weakref.ref[Tensor]] = []

    def of(t: int) -> Callable[[], Tensor]:
        def run() -> Tensor:
            assert all(ref() is None for ref in alive)
            z = model.features(X)
            alive.append(weakref.ref(z))
            return model.losses(z)[t]

        return run

    fastgmtl.backward([of(t) for t in range(T)], model, METHODS["PCGrad"]())
    check(model, want)


def test_the_graph_is_freed_with_the_last_loss_and_never_built_twice() -> None:
    model = Model()
    losses = model.losses(model.features(X))
    fastgmtl.backward(losses, model, gradients.Mean())
    assert all(not p.grad.requires_grad for p in model.parameters() if p.grad is not None)
    with pytest.raises(RuntimeError, match="second time"):
        losses[0].backward()
    kept = model.losses(model.features(X))
    fastgmtl.backward(kept, model, gradients.Mean(), retain_graph=True)
    kept[0].backward()


@pytest.mark.parametrize("capture", gradients.capture.CAPTURES)
def test_missing_tasks_have_zeros(capture: str) -> None:
    model, twin = Model(), Model()
    losses = model.losses(model.features(X))
    report = fastgmtl.backward([losses[0], None, losses[2]], model, gradients.PCGrad("none"), capture=capture)
    other = twin.losses(twin.features(X))
    fastgmtl.backward([other[0], other[1].detach(), other[2]], twin, gradients.PCGrad("none"), capture=capture)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None) and (p.grad is None or torch.equal(p.grad, q.grad))
    assert model.heads[1].weight.grad is None and model.first.weight.grad is not None
    assert report.norms[1] == 0 and not report.cosines[1].any()
    # The layer of the first two tasks belongs to one of them now: a plain gradient.
    alone = Model()
    (want,) = torch.autograd.grad(alone.losses(alone.features(X))[0], [alone.pair.weight])
    close(model.pair.weight.grad, want, torch.float64)  # type: ignore[arg-type]


def test_features() -> None:
    for name in METHODS:
        model = Model()
        z = model.features(X)
        rows = torch.stack([torch.autograd.grad(v, z, retain_graph=True)[0].flatten() for v in model.losses(z)])
        want_z = METHODS[name]()(rows).reshape(z.shape)
        trunk = [*model.first.parameters(), *model.second.parameters()]
        want = torch.autograd.grad(z, trunk, want_z, retain_graph=True)
        heads = [*model.pair.parameters(), *model.heads.parameters()]
        plain = torch.autograd.grad(sum(model.losses(z)), heads)  # type: ignore[arg-type]
        z = model.features(X)
        report = fastgmtl.backward(model.losses(z), model, METHODS[name](), features=z)
        for p, g in zip([*trunk, *heads], [*want, *plain], strict=True):
            close(p.grad, g, torch.float64)  # type: ignore[arg-type]
        close(report.gram, rows @ rows.T, torch.float64)  # type: ignore[arg-type]
        assert model.unused.grad is None


def test_two_features_and_a_missing_task() -> None:
    model = Model()
    z, y = model.features(X), model.first(X)
    losses = [(z**2).mean(), None, (z * y[:, :6]).mean() + model.heads[0](z).mean()]
    report = fastgmtl.backward(losses, model, gradients.MGDA(), features=[z, y])
    rows = [
        torch.autograd.grad(f, [z, y], allow_unused=True, retain_graph=True)
        for f in ((z**2).mean(), (z * y[:, :6]).mean())
    ]
    assert report.norms[1] == 0 and rows[0][1] is None
    assert model.second.weight.grad is not None and model.heads[0].weight.grad is not None


def test_groups() -> None:
    model = Model()
    losses = model.losses(model.features(X))
    named = [n for n, p in model.named_parameters()]
    report = fastgmtl.backward(losses, model, gradients.MGDA(), groups="tensor", retain_graph=True)
    shared = ["first.weight", "first.bias", "second.weight", "second.bias", "pair.weight", "pair.bias"]
    assert report.weights.shape == (6, T) and report.gram.shape == (6, T, T)  # type: ignore[union-attr]
    for name in shared:
        p = dict(model.named_parameters())[name]
        rows = [torch.autograd.grad(v, p, retain_graph=True, allow_unused=True)[0] for v in losses]
        close(p.grad, gradients.MGDA()([[row] for row in rows])[0], torch.float64)  # type: ignore[arg-type]
    by_module = fastgmtl.backward(losses, model, gradients.MGDA(), groups="module", retain_graph=True)
    assert by_module.weights.shape == (3, T)  # type: ignore[union-attr]
    numbers = [7 if "first" in name else 2 for name in named]
    by_number = fastgmtl.backward(losses, model, gradients.MGDA(), groups=numbers, retain_graph=True)
    assert by_number.weights.shape == (2, T)  # type: ignore[union-attr]
    close(by_number.gram.sum(0), by_module.gram.sum(0), torch.float64)  # type: ignore[union-attr]


def test_some_gradients_are_there_already() -> None:
    """With groups and without: fresh ones are written, others are added to."""
    for groups in (None, "tensor"):
        model, twin = Model(), Model()
        fastgmtl.backward(twin.losses(twin.features(X)), twin, gradients.MGDA(), groups=groups)
        model.second.bias.grad, model.first.weight.grad = torch.ones(6).double(), torch.ones(8, 5).double()
        before = model.second.bias.grad
        fastgmtl.backward(model.losses(model.features(X)), model, gradients.MGDA(), groups=groups)
        assert model.second.bias.grad is before
        for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
            if p.grad is not None:
                close(p.grad, q.grad + (name in ("second.bias", "first.weight")), torch.float64)


def test_metabalance_graddrop_and_rcgrad() -> None:
    for make in (
        gradients.MetaBalance,
        lambda: gradients.GradDrop(generator=torch.Generator().manual_seed(1)),
        lambda: gradients.RCGrad(T),
    ):
        for capture in gradients.capture.CAPTURES:
            model = Model()
            losses = model.losses(model.features(X))
            shared = [*model.first.parameters(), *model.second.parameters(), *model.pair.parameters()]
            rows = [torch.autograd.grad(v, shared, retain_graph=True, allow_unused=True) for v in losses]
            want = make()(rows)
            report = fastgmtl.backward(losses, model, make(), capture=capture)
            for p, g in zip(shared, want, strict=True):
                close(p.grad, g, torch.float64)  # type: ignore[arg-type]
            if report.gram is None:
                with pytest.raises(ValueError, match="reads no Gram matrix"):
                    report.cosines  # noqa: B018
            else:
                assert report.conflicts.shape == () and not report.weights.requires_grad  # type: ignore[union-attr]


def test_the_target_may_be_named() -> None:
    model, method = Model(), gradients.GCS()
    report = fastgmtl.backward(model.losses(model.features(X)), model, method, target=2)
    assert method.target == 2 and report.weights[2] == 1  # type: ignore[index]


def test_report() -> None:
    model = Model()
    report = fastgmtl.backward(model.losses(model.features(X)), model, gradients.UPGrad())
    shared = [*model.first.parameters(), *model.second.parameters(), *model.pair.parameters()]
    total = torch.cat([p.grad.flatten() for p in shared])  # type: ignore[union-attr]
    close(report.norm, total.norm(), torch.float64)
    close(report.cosines.diagonal(), torch.ones(T), torch.float64)
    assert int(report.conflicts) == int((report.cosines.triu(1) < 0).sum())


def test_scaler() -> None:
    """.grad is left scaled, weights are those of the gradients themselves; a step with inf is skipped and forgotten."""
    model, twin = Model().float(), Model().float()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plain = torch.optim.SGD(twin.parameters(), lr=0.1)
    methods = [gradients.GradVac(0.5, "none") for _ in range(2)]
    for bad in (False, True, False):
        x = X.float() * (float("inf") if bad else 1)
        optimizer.zero_grad(), plain.zero_grad()
        report = fastgmtl.backward(model.losses(model.features(x)), model, methods[0], scaler=scaler)
        if bad:
            before = methods[0].cosine.clone()  # type: ignore[union-attr]
            assert before.isfinite().all()
        else:
            want = fastgmtl.backward(twin.losses(twin.features(x)), twin, methods[1])
            close(report.weights, want.weights, torch.float32)  # type: ignore[arg-type]
            close(report.norms, want.norms, torch.float32)
        scaler.step(optimizer), scaler.update()
        if not bad:
            plain.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        close(p.detach(), q.detach(), torch.float32)


def test_accumulation_over_micro_batches_is_not_one_surgery() -> None:
    """Updates of micro-batches add up; for one surgery over all of them the losses are functions over the batches."""
    model, twin = Model(), Model()
    for half in (X, 2 * X):
        fastgmtl.backward(model.losses(model.features(half)), model, METHODS["PCGrad"]())

    def whole(t: int) -> Tensor:
        return sum(twin.losses(twin.features(half))[t] for half in (X, 2 * X))  # type: ignore[return-value]

    fastgmtl.backward([lambda t=t: whole(t) for t in range(T)], twin, METHODS["PCGrad"]())
    head = model.heads[0].weight.grad
    close(head, twin.heads[0].weight.grad, torch.float64)  # type: ignore[arg-type]


def test_what_cannot_be_batched_is_looped_over() -> None:
    class Root(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            return x * 2

        @staticmethod
        def backward(ctx, g):  # type: ignore[no-untyped-def]
            return g * 2 if float(g.sum()) > -1e9 else g  # reads a number: no batch has one

    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    z = Root.apply(w)
    fastgmtl.backward([z[0] * 2, (z**2).sum()], [w], gradients.Sum(), capture="batched")
    assert w.grad.tolist() == [12.0, 8.0, 8.0]  # type: ignore[union-attr]


def test_expanded_gradients() -> None:
    w = torch.ones(4, requires_grad=True)
    fastgmtl.backward([w.sum(), 2 * w.sum()], [w], gradients.Sum())
    assert w.grad.tolist() == [3.0] * 4  # type: ignore[union-attr]
    v = torch.ones(4, requires_grad=True)
    fastgmtl.backward([w.sum() + v.sum(), w.sum()], [w, v], gradients.Sum())
    v.grad += torch.arange(4)
    assert v.grad.tolist() == [1.0, 2.0, 3.0, 4.0]  # type: ignore[union-attr]


def test_features_and_tied_weights() -> None:
    w = torch.ones(3, 3, requires_grad=True)
    z = torch.ones(2, 3) @ w
    with pytest.raises(ValueError, match="used both before the features and after them"):
        fastgmtl.backward([z.sum(), (z @ w.T).sum()], [w], gradients.Sum(), features=z)


def refused() -> list[tuple[Callable[[], object], type[Exception], str]]:
    model = Model()
    losses, mean = model.losses(model.features(X)), gradients.Mean()
    table = nn.Embedding(4, 2, sparse=True)
    rows = table(torch.tensor([1, 2]))
    run = fastgmtl.backward
    return [
        (lambda: run(losses, model, mean, capture="vmap"), ValueError, "capture must be one of loop, batched"),
        (lambda: run(losses, model, "pcgrad"), TypeError, "method must be an aggregator .*, got str"),  # type: ignore[arg-type]
        (lambda: run(losses, model, mean, target=0), ValueError, "Mean has no target task"),
        (lambda: run(losses, [3], mean), TypeError, "parameters must be tensors, got int"),  # type: ignore[list-item]
        (lambda: run(losses, [torch.ones(2)], mean), ValueError, "none of the parameters requires grad"),
        (lambda: run([], model, mean), ValueError, r"losses must be a tensor \[T\] or a sequence"),
        (lambda: run(losses[0], model, mean), ValueError, r"losses must be a tensor \[T\] or a sequence"),
        (lambda: run([losses[0], X], model, mean), TypeError, r"a loss must be a number .*, got \[20, 5\]"),
        (
            lambda: run(losses, model, mean, groups=[1]),
            ValueError,
            "groups must have a number for each of 13 parameters",
        ),
        (lambda: run(losses, list(model.parameters()), mean, groups="module"), ValueError, "must have a model"),
        (lambda: run(losses, model, mean, features=X), ValueError, "features must be computed from parameters"),
        (
            lambda: run(losses, model, mean, features=losses[0], groups="tensor"),
            ValueError,
            "leave out groups and capture",
        ),
        (lambda: run([rows.sum(), rows.mean()], table, mean), TypeError, r"grads\[0\]\[0\] must be a dense tensor"),
        (
            lambda: run([w.sum() for w in model.heads[0].parameters()], model, mean),
            ValueError,
            "no parameter is shared",
        ),
    ]


@pytest.mark.parametrize("index", range(14))
def test_refused(index: int) -> None:
    call, error, message = refused()[index]
    with pytest.raises(error, match=message):
        call()


def test_batched_where_graphs_meet_in_several_places() -> None:
    """Losses of one operation, a loss that is a part of another, a leaf that a loss reaches by two ways."""
    w, v = (torch.randn(4, generator=cases.generator(name), dtype=torch.float64, requires_grad=True) for name in "wv")

    def losses() -> list[Tensor]:
        z = (w * v).tanh()
        parts = torch.stack([z.sum(), (z**2).sum()]).unbind()
        return [parts[0], parts[1], parts[0] * 2 + w.sum(), (v * w.detach()).sum()]

    for method in (gradients.Sum, gradients.MGDA):
        found = []
        for capture in gradients.capture.CAPTURES:
            w.grad = v.grad = None
            fastgmtl.backward(losses(), [w, v], method(), capture=capture)
            found.append((w.grad, v.grad))
        close(*found, torch.float64)  # type: ignore[arg-type]
