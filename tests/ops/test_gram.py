"""gram by hand: precision, missing gradients, groups, errors. What is generated for every operator is beside this."""

from __future__ import annotations

from types import ModuleType

import cases
import pytest
import torch
from compare import case, close

from fastgmtl import ops, reference


def test_gram_by_hand() -> None:
    first, second = (
        [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])],
        [torch.tensor([4.0, -1.0]), torch.tensor([[2.0]])],
    )
    assert ops.gram([first, second]).tolist() == [[14.0, 8.0], [8.0, 21.0]]
    assert ops.gram([first, second], range(2)).tolist() == [[[5.0, 2.0], [2.0, 17.0]], [[9.0, 6.0], [6.0, 4.0]]]
    assert ops.gram([first]).tolist() == [[14.0]]


def test_three_forms_of_one_matrix() -> None:
    matrix = torch.randn(5, 3000, generator=cases.generator("forms"))
    parts = matrix.split([1000, 1500, 500], 1)
    want = matrix.double() @ matrix.double().T
    for form in (matrix, parts, [list(row) for row in zip(*(p.unbind() for p in parts), strict=True)]):
        close(ops.gram(form), want, torch.float32)


def test_a_missing_gradient_is_zero() -> None:
    a, b, c = (torch.randn(4, 3, generator=cases.generator(name)) for name in "abc")
    got = ops.gram([[a, None, b], [None, None, c]], [0, 1, 2])
    want = reference.gram([[a, a * 0, b], [a * 0, a * 0, c]], [0, 1, 2])
    close(got, want, torch.float32)
    assert got.shape == (3, 2, 2) and not got[1].any() and not ops.gram([[None], [None]]).any()


def test_missing_gradients_have_derivatives() -> None:
    a, b = (torch.randn(3, dtype=torch.float64, generator=cases.generator(name), requires_grad=True) for name in "ab")
    assert torch.autograd.gradcheck(lambda a, b: ops.gram([[a, None], [b, None], [None, None]]), (a, b))


def test_groups_add_up() -> None:
    rows = [[torch.randn(n, generator=cases.generator(f"{t}-{n}")) for n in (5, 4000, 1, 70)] for t in range(3)]
    for groups in ([0, 0, 0, 0], [3, 2, 1, 0], [1, 0, 1, 0], [2, 2, 0, 2]):
        with case(groups):
            parts = ops.gram(rows, groups)
            close(parts, reference.gram(rows, groups), torch.float32)
            torch.testing.assert_close(parts.sum(0), ops.gram(rows), rtol=1e-12, atol=1e-9)


def test_ten_million_elements_are_summed_exactly_enough(kernels: ModuleType) -> None:
    """The error of float32 sums within a chunk does not grow with their number."""
    rows = torch.randn(2, 10**7, generator=cases.generator("precision"))
    got = ops.gram(rows).diagonal()
    want = rows.double().square().sum(1)
    assert ((got - want) / want).abs().max() < 1e-7


@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 64])
def test_any_number_of_tasks_on_every_level(tasks: int, kernels: ModuleType) -> None:
    rows, before = torch.randn(tasks, 2500, generator=cases.generator("tasks")), kernels.simd()
    want = rows.double() @ rows.double().T
    try:
        for level in kernels.simd_levels():
            kernels.set_simd(level)
            for dtype in cases.DTYPES:
                half = rows.to(dtype)
                exact = want if dtype in (torch.float32, torch.float64) else half.double() @ half.double().T
                with case(level, dtype):
                    close(ops.gram(half), exact, torch.float32)
    finally:
        kernels.set_simd(before)


def test_parts_may_have_dtypes_of_their_own() -> None:
    rows = [[torch.ones(3, dtype=dtype) for dtype in cases.DTYPES] for _ in range(2)]
    assert ops.gram(rows).tolist() == [[12.0, 12.0], [12.0, 12.0]]


def test_infinite_and_nan_gradients_stay_in_their_row() -> None:
    rows = torch.ones(3, 5000)
    rows[1, 4321] = torch.nan
    assert ops.gram(rows).isnan().any(1).tolist() == [True, True, True]
    assert ops.gram(rows).diagonal().isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("grads", "error", "message"),
    [
        (5, TypeError, r"gram: grads must be a tensor \[T, P\] or a list with the gradients of each task, got int"),
        ([], TypeError, "got an empty list"),
        ([5], TypeError, r"gram: grads\[0\] must be a list of tensors, got int"),
        ([[torch.ones(2)], [3.0]], TypeError, r"gram: grads\[1\]\[0\] must be a tensor or None, got float"),
        (torch.ones(3), ValueError, r"gram: a tensor of gradients must have shape \[T, P\], got \[3\]"),
        (torch.ones(65, 1), ValueError, "gram: there must be 1 to 64 tasks, got 65"),
        (torch.ones(0, 4), ValueError, "gram: there must be 1 to 64 tasks, got 0"),
        ([torch.ones(2, 3), torch.ones(3, 3)], ValueError, r"first axis of T = 2, grads\[1\] is \[3, 3\]"),
        ([[torch.ones(2)], []], ValueError, r"for each of the N = 1 tensors of the first, grads\[1\] has 0"),
        ([[torch.ones(2)], [torch.ones(3)]], ValueError, r"grads\[1\]\[0\] has \[3\], another \[2\]"),
        ([[torch.ones(2)], [torch.ones(2).double()]], TypeError, r"grads\[1\]\[0\] must be torch.float32 as the same"),
        (
            [[torch.ones(2)], [torch.ones(2).to_sparse()]],
            TypeError,
            r"grads\[1\]\[0\] must be a dense tensor, .*to_dense",
        ),
        ([[torch.ones(2).long()]], TypeError, r"grads\[0\]\[0\] must be floating point, got int64"),
    ],
)
def test_refused(grads: object, error: type[Exception], message: str, kernels: ModuleType) -> None:
    with pytest.raises(error, match=message):
        ops.gram(grads)  # type: ignore[arg-type]


def test_groups_refused() -> None:
    for groups, message in (
        ([0], "entry for each of the N = 2 tensors, got 1"),
        ([0, -1], "must be 0 or more, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            ops.gram([torch.ones(2, 1), torch.ones(2, 3)], groups)


def test_sparse_gradients_of_an_embedding_are_refused() -> None:
    table = torch.nn.Embedding(5, 3, sparse=True)
    (grad,) = torch.autograd.grad(table(torch.tensor([1, 2])).sum(), table.parameters())
    with pytest.raises(TypeError, match=r"grads\[0\]\[0\] must be a dense tensor, got layout torch.sparse_coo"):
        ops.gram([[grad], [grad]])
