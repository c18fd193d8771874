"""The margins for rounding: no step of a certificate in float64 is below the same step in rational numbers."""

from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cheaplip.bounds import ellipsoid
from cheaplip.bounds.blocks import Linearised
from cheaplip.bounds.multipliers import certificate
from cheaplip.bounds.multipliers.certificate import RIGOROUS, proved_root
from cheaplip.bounds.multipliers.start import closed_form
from support.exact import Matrix, diagonal, exact, is_semidefinite, product, solved, sum_of, transposed


def scaled(rows: int, columns: int, decades: float, generator: torch.Generator) -> torch.Tensor:
    """Random, with rows and columns of lengths that differ by so many powers of ten."""
    matrix = torch.randn(rows, columns, generator=generator).double()
    left, right = (10 ** (decades * (torch.rand(n, generator=generator).double() - 0.5)) for n in (rows, columns))
    return left[:, None] * matrix * right


def identity(n: int) -> Matrix:
    return diagonal([Fraction(1)] * n)


def one_layer(seed: int, decades: float, narrow: float) -> tuple[torch.Tensor, Matrix]:
    """G after an activation and a weight: as computed, and W (diag(m) (G^-1 - T)^-1 diag(m) + diag(r^2 / t)) W^T."""
    generator = torch.Generator().manual_seed(seed)
    n = 2 + seed % 4
    gram = RIGOROUS.congruence(scaled(n, 3, decades, generator), None, 0)
    ends = torch.rand(2, n, generator=generator).double() ** narrow
    slopes = ends.amin(0), ends.amax(0)
    state = RIGOROUS.activation(gram, slopes, closed_form(gram, slopes, n, 0.5, 0.5))
    assert state is not None
    weight = scaled(2, n, decades, generator)
    found = RIGOROUS.congruence(weight, state.deviation, 1) + RIGOROUS.coupled(weight, state)
    low, high = (exact(end) for end in slopes)
    half = diagonal([Fraction(1, 2)] * n)
    m, r = product(half, sum_of(high, low)), product(half, sum_of(high, low, -1))
    root, g, w = exact(state.root), exact(gram), exact(weight)
    t = product(root, root)
    inner = product(g, solved(sum_of(identity(n), product(t, g), -1), m))
    spread = diagonal([r[i][i] ** 2 / t[i][i] if r[i][i] else Fraction(0) for i in range(n)])
    moved = sum_of(product(m, inner), spread)
    return found, product(w, moved, transposed(w))


def one_step(seed: int, decades: float) -> tuple[torch.Tensor, Matrix]:
    """Sigma after an operation on some of the entries: as computed, and M (Sigma^-1 - C^T T C)^-1 M^T + N T^-1 N^T."""
    generator = torch.Generator().manual_seed(seed)
    rest, own, out, inside = 1 + seed % 2, 2 + seed % 3, 2, 3
    spread = scaled(rest + own, 4, decades, generator)
    sigma = spread @ spread.T
    block = torch.tensor([0, 0, 1])
    errors = ((torch.tensor([0, 1]), torch.rand(2, generator=generator).double()),)
    step = Linearised(
        scaled(out, inside, decades, generator), scaled(inside, own, decades, generator), block, errors if seed % 5 else ()
    )
    kept, taken = torch.arange(rest), rest + torch.arange(own)
    done = ellipsoid._moved(sigma, kept, taken, step, None)
    assert done is not None
    c = torch.cat([torch.zeros(inside, rest).double(), step.before], 1)
    t = diagonal([Fraction(0)] * inside)
    noise = diagonal([Fraction(0)] * (rest + out))
    if step.acting:
        inner = step.before @ sigma[rest:, rest:] @ step.before.T
        slack = ellipsoid.gamma(2 * own) * (inside + rest) * (step.before.abs() @ sigma.diagonal()[rest:].sqrt()).square()
        root = step.roots(inner + torch.diag(slack))
        t = product(exact(root), exact(root))
        for i, (b, size) in enumerate(zip(errors[0][0].tolist(), errors[0][1].tolist(), strict=True)):
            noise[rest + i][rest + i] = Fraction(size) ** 2 / t[[0, 2][b]][[0, 2][b]]
    s, e = exact(sigma), exact(c)
    held = solved(sum_of(identity(rest + own), product(s, transposed(e), t, e), -1), s)
    keep = torch.eye(rest, rest + own).double()
    map_ = [*exact(keep), *product(exact(step.matrix), e)]
    return done[0], sum_of(product(map_, held, transposed(map_)), noise)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), decades=st.sampled_from([0.0, 2.0, 6.0]), narrow=st.sampled_from([0.0, 1e-9, 1.0, 8.0]))
def test_no_layer_of_the_certificate_is_below_its_exact_value(seed, decades, narrow):
    found, true = one_layer(seed, decades, narrow)
    assert is_semidefinite(sum_of(exact(found), true, -1))


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), decades=st.sampled_from([0.0, 2.0, 6.0]))
def test_no_step_of_the_ellipsoid_is_below_its_exact_value(seed, decades):
    found, true = one_step(seed, decades)
    assert is_semidefinite(sum_of(exact(found), true, -1))


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), decades=st.sampled_from([0.0, 4.0, 12.0]))
def test_no_proved_root_is_below_the_largest_eigenvalue(seed, decades):
    half = scaled(4, 3, decades, torch.Generator().manual_seed(seed))
    gram = half @ half.T
    square = Fraction(proved_root(gram)) ** 2
    assert is_semidefinite(sum_of(diagonal([square] * 4), exact(gram), -1))


def test_without_the_margins_some_are(monkeypatch):
    """So the tests above would see one that is missing."""
    monkeypatch.setattr(ellipsoid, "gamma", lambda k: 0.0)
    monkeypatch.setattr(certificate, "gamma", lambda k: 0.0)
    for compute in (lambda seed: one_layer(seed, 2.0, 1.0), lambda seed: one_step(seed, 2.0)):
        differences = (sum_of(exact(found), true, -1) for found, true in map(compute, range(40)))
        assert not all(map(is_semidefinite, differences))
