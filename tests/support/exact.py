"""Matrices of rational numbers: what float64 computes, without a rounding error."""

from __future__ import annotations

from fractions import Fraction

from torch import Tensor

Matrix = list[list[Fraction]]


def exact(tensor: Tensor) -> Matrix:
    """The very numbers of a matrix, or of a vector as a diagonal."""
    if tensor.dim() == 1:
        return diagonal([Fraction(value) for value in tensor.tolist()])
    return [[Fraction(value) for value in row] for row in tensor.tolist()]


def diagonal(values: list[Fraction]) -> Matrix:
    return [[value if i == j else Fraction(0) for j in range(len(values))] for i, value in enumerate(values)]


def transposed(a: Matrix) -> Matrix:
    return [list(column) for column in zip(*a, strict=True)]


def product(*factors: Matrix) -> Matrix:
    first, *others = factors
    for other in others:
        columns = transposed(other)
        first = [[sum(map(Fraction.__mul__, row, column), Fraction(0)) for column in columns] for row in first]
    return first


def sum_of(a: Matrix, b: Matrix, factor: int = 1) -> Matrix:
    return [[x + factor * y for x, y in zip(row, other, strict=True)] for row, other in zip(a, b, strict=True)]


def solved(a: Matrix, b: Matrix) -> Matrix:
    """A^-1 B, by elimination."""
    rows = [[*row, *right] for row, right in zip(a, b, strict=True)]
    n = len(rows)
    for i in range(n):
        pivot = next(k for k in range(i, n) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for k in range(n):
            if k != i and rows[k][i]:
                rows[k] = [x - rows[k][i] * y for x, y in zip(rows[k], rows[i], strict=True)]
    return [row[n:] for row in rows]


def is_semidefinite(a: Matrix) -> bool:
    """Whether x^T A x >= 0 for all x: the pivots of a symmetric elimination are."""
    rows = [list(row) for row in a]
    for i, row in enumerate(rows):
        if row[i] < 0 or (row[i] == 0 and any(row[i:])):
            return False
        for below in rows[i + 1 :]:
            if row[i]:
                factor = below[i] / row[i]
                below[:] = [x - factor * y for x, y in zip(below, row, strict=True)]
    return True
