"""The border of the kernels on lists of tensors: what does not fit is refused before any memory is touched."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

T, P = 3, 40


@pytest.fixture(params=["exchange API", "__dlpack__"])
def border(request: pytest.FixtureRequest, kernels: ModuleType) -> Iterator[ModuleType]:
    kernels.set_exchange_api(request.param == "exchange API")
    yield kernels
    kernels.set_exchange_api(True)


def rows(*tensors: Any) -> tuple[Any, ...]:
    """T rows of one tensor."""
    return tuple(tensors or torch.ones(T, P).unbind()), T, False


def gram(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {"a": rows(), "b": ((), 0, True), "groups": [0], "out": torch.empty(1, T, T, dtype=torch.float64)} | changes
    kernels.gram(*a.values(), 1)
    return a["out"]  # type: ignore[return-value]


def combine(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {
        "grads": rows(),
        "weights": torch.ones(1, 1, T, dtype=torch.float64),
        "groups": [],
        "out": ((torch.empty(P),), 1, False),
    } | changes
    kernels.combine(*a.values(), False, 1)
    return a["out"][0][0]  # type: ignore[index]


def test_the_calls_of_this_file_are_right(border: ModuleType) -> None:
    assert gram(border).eq(P).all() and combine(border).eq(T).all()


def fake() -> Tensor:
    with FakeTensorMode() as mode:
        return mode.from_tensor(torch.ones(P))


WRONG = {
    "a number": lambda: 3.0,
    "text": lambda: "x",
    "fake": fake,
    "meta": lambda: torch.ones(P, device="meta"),
    "sparse": lambda: torch.ones(P).to_sparse(),
    "complex": lambda: torch.ones(P, dtype=torch.complex64),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_a_plain_tensor(kind: str, border: ModuleType) -> None:
    wrong = rows(torch.ones(P), WRONG[kind](), torch.ones(P))
    for changes in ({"a": wrong}, {"b": wrong}):
        with pytest.raises(TypeError):
            gram(border, **changes)
    for changes in ({"grads": wrong}, {"out": ((WRONG[kind](),), 1, False)}):
        with pytest.raises(TypeError):
            combine(border, **changes)


MALFORMED = [
    None,
    (),
    ([torch.ones(P)] * T, T, False),
    ((torch.ones(P),) * T, "3", False),
    ((torch.ones(P),) * T, T),
    ((torch.ones(P),) * T, 2**70, False),
    ((torch.ones(P),) * T, T, None),
]


@pytest.mark.parametrize("wrong", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_not_a_list_of_rows(wrong: Any, border: ModuleType) -> None:
    for function, name in ((gram, "a"), (gram, "b"), (combine, "grads"), (combine, "out")):
        with pytest.raises(TypeError):
            function(border, **{name: wrong})


def double(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "changes", "error", "message"),
    [
        (gram, {"a": ((), 0, False)}, ValueError, "gram: a must have 1 to 64 rows, got 0"),
        (gram, {"a": ((), -1, False)}, ValueError, "gram: a must have 1 to 64 rows, got -1"),
        (gram, {"a": ((torch.ones(2, P),), 65, True)}, ValueError, "must have 1 to 64 rows, got 65"),
        (gram, {"a": ((torch.ones(P),) * 4, T, False)}, ValueError, "a must have as many tensors in every row"),
        (gram, {"a": ((torch.ones(2, P),), T, True)}, ValueError, "a must have a first axis of 3"),
        (gram, {"a": rows(*torch.ones(2, P), torch.ones(2))}, ValueError, "same number of elements .*, got 2 and 40"),
        (gram, {"a": rows(*torch.ones(2, P), double(P))}, TypeError, "a must be float32, got float64"),
        (gram, {"a": rows(*torch.ones(T, P).long())}, TypeError, "a must be floating point"),
        (gram, {"a": rows(*torch.ones(P, T).T)}, ValueError, "contiguous"),
        (gram, {"b": ((torch.ones(P),) * 4, 2, False)}, ValueError, "b must have 1 tensors in every row, got 2"),
        (
            gram,
            {"b": ((torch.ones(P),) * 2, 2, False)},
            ValueError,
            r"out must have shape \[1, 3, 2\], got \[1, 3, 3\]",
        ),
        (gram, {"a": ((), 1, True), "b": rows(), "out": double(1, 1, 3)}, ValueError, "b must have 0 tensors"),
        (gram, {"out": torch.ones(1, T, T)}, TypeError, "out must be float64, got float32"),
        (gram, {"out": double(T, T)}, ValueError, r"out must have shape \[K, S, T\], got \[3, 3\]"),
        (gram, {"out": None}, ValueError, "out must have shape"),
        (gram, {"groups": [1]}, ValueError, r"groups must be in \[0, 1\)"),
        (gram, {"groups": [-1]}, ValueError, r"groups must be in \[0, 1\)"),
        (gram, {"groups": [0, 0]}, ValueError, "groups must have an entry for every tensor of a row"),
        (gram, {"out": double(0, T, T)}, ValueError, r"groups must be in \[0, 0\)"),
        (combine, {"weights": double(1, 1, 2)}, ValueError, r"weights must have shape \[1, 1, 3\], got \[1, 1, 2\]"),
        (combine, {"weights": torch.ones(1, 1, T)}, TypeError, "weights must be float64"),
        (combine, {"weights": None}, ValueError, "weights must have shape"),
        (combine, {"out": ((torch.ones(P - 1),), 1, False)}, ValueError, "out must have the same number of elements"),
        (combine, {"out": ((double(P),), 1, False)}, TypeError, "out must be float32, got float64"),
        (combine, {"out": ((None,), 1, False)}, ValueError, "out must be tensors, got None"),
        (combine, {"out": ((torch.ones(P),) * 2, 1, False)}, ValueError, "out must have 1 tensors in every row, got 2"),
    ],
)
def test_what_does_not_fit(
    function: Any, changes: dict[str, Any], error: type[Exception], message: str, border: ModuleType
) -> None:
    with pytest.raises(error, match=message):
        function(border, **changes)


def test_rows_that_are_all_missing(border: ModuleType) -> None:
    assert not gram(border, a=rows(None, None, None)).any()
    assert not combine(border, grads=rows(None, None, None)).any()
    assert gram(border, a=((None,), T, True)).eq(0).all()
    assert gram(border, a=((), T, False), groups=[]).eq(0).all()


def task_weights(kernels: ModuleType, **changes: Any) -> Tensor:
    a = {
        "method": 1,
        "gram": torch.eye(T, dtype=torch.float64).unsqueeze(0),
        "vector": double(T),
        "order": torch.zeros(T, T, dtype=torch.int64),
        "parameter": 0.5,
        "state": torch.zeros(1, T, T, dtype=torch.float64),
        "out": torch.empty(1, T, dtype=torch.float64),
    } | changes
    kernels.task_weights(*a.values())
    return a["out"]  # type: ignore[return-value]


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", ["gram", "vector", "order", "state", "out"])
def test_what_is_not_a_plain_tensor_of_weights(name: str, kind: str, border: ModuleType) -> None:
    with pytest.raises(TypeError):
        task_weights(border, **{name: WRONG[kind]()})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": -1}, ValueError, "no method -1"),
        ({"method": 13}, ValueError, "no method 13"),
        ({"gram": double(T, T)}, ValueError, r"gram must have shape \[K, T, T\] with T of 1 to 64, got \[3, 3\]"),
        ({"gram": double(1, T, T + 1)}, ValueError, "gram must have shape"),
        ({"gram": double(1, 0, 0)}, ValueError, "with T of 1 to 64"),
        ({"gram": torch.ones(1, T, T)}, TypeError, "every tensor must be float64"),
        ({"order": None}, ValueError, r"order must have shape \[3, 3\]"),
        ({"state": None}, ValueError, r"state must have shape \[1, 3, 3\]"),
        ({"out": double(2, T)}, ValueError, r"out must have shape \[1, 3\]"),
        ({"method": 11, "parameter": float("nan")}, ValueError, "no such target"),
        ({"method": 11, "parameter": -1.0}, ValueError, "no such target"),
    ],
)
def test_weights_that_do_not_fit(
    changes: dict[str, Any], error: type[Exception], message: str, border: ModuleType
) -> None:
    assert task_weights(border).tolist() == [[1.0, 1.0, 1.0]]
    with pytest.raises(error, match=message):
        task_weights(border, **changes)
