"""x^b in single precision against numpy's in double precision, and the machine code that it becomes."""

import re

import numpy as np
import pytest
from bertopic_engine._mean_field import _VECTORISED
from bertopic_engine._power import power
from numba import njit

CLAIMED_ERROR, CLAIMED_RANGE = 1.6e-6, 20.0
EXPONENTS = (0.3, 0.4, 0.5, 0.7904, 0.895, 1.0, 1.25, 1.5, 1.929, 2.0)


@njit
def strictly(x, b, out):
    for i in range(x.shape[0]):
        out[i] = power(x[i], b)


@njit(error_model="numpy", fastmath=_VECTORISED)
def fused(x, b, out):
    for i in range(x.shape[0]):
        out[i] = power(x[i], b)


either_arithmetic = pytest.mark.parametrize("loop", [strictly, fused], ids=["strict", "fused"])


def powers(loop, x, b):
    out = np.empty_like(x)
    loop(x, np.float32(b), out)
    return out


def expected_powers(x, b):
    return x.astype(np.float64) ** np.float64(np.float32(b))


@either_arithmetic
@pytest.mark.parametrize("b", EXPONENTS)
def test_power_is_as_near_as_claimed(loop, b):
    largest = min(CLAIMED_RANGE / b, 125.0) * 0.999
    exponents = np.linspace(-largest, largest, 200_001)
    # Where the mantissa is split, and whole powers of two, with the numbers next to them.
    corners = np.concatenate([[2.0**e, 2.0 ** (e + 0.5)] for e in range(-int(largest), int(largest))])
    x = np.concatenate([2.0**exponents, corners, corners * (1 + 1e-7), corners * (1 - 1e-7)]).astype(np.float32)
    expected = expected_powers(x, b)

    error = np.abs(powers(loop, x, b) / expected - 1)

    assert error.max() < CLAIMED_ERROR


@either_arithmetic
@pytest.mark.parametrize("b", EXPONENTS)
def test_power_grows_with_x(loop, b):
    x = np.geomspace(1e-6, 1e4, 100_000).astype(np.float32)

    result = powers(loop, x, b)

    # Two neighbours on the grid differ by less than the error; they may change places, but no farther than that.
    assert (result[1:] >= result[:-1] * (1 - 2 * CLAIMED_ERROR)).all()
    assert (np.diff(result[::100]) > 0).all()


@pytest.mark.parametrize("b", EXPONENTS)
def test_power_of_one_is_one(b):
    np.testing.assert_allclose(powers(fused, np.ones(3, np.float32), b), 1, rtol=2e-7)


@pytest.mark.parametrize("b", EXPONENTS)
def test_tiny_numbers_have_tiny_powers(b):
    """Beyond what is claimed; squared distances near 0 must not come out large."""
    x = np.float32(2.0) ** np.linspace(-120 / max(b, 1), -60 / max(b, 1), 101, dtype=np.float32)

    np.testing.assert_allclose(powers(fused, x, b), expected_powers(x, b), rtol=1e-5)


SCALAR_FUNCTION = re.compile(r"call[^\n]*@(?:llvm\.)?(?:pow|exp2?|log2?)f?(?:\.f32|\.f64)?\(")


def vector_products(code):
    return re.findall(r"= f(?:mul|add)[a-z ]* <(?:4|8|16) x float>", code)


def test_a_loop_of_powers_runs_in_vector_registers():
    powers(fused, np.ones(64, np.float32), 0.5)
    (code,) = fused.inspect_llvm().values()

    assert not SCALAR_FUNCTION.search(code)
    assert len(vector_products(code)) >= 10
    # Whole numbers and single precision only: half as many doubles would fit.
    assert not re.search(r"<\d+ x double>", code)


@njit(error_model="numpy", fastmath=_VECTORISED)
def by_the_library(x, b, out):
    for i in range(x.shape[0]):
        out[i] = x[i] ** b


def test_the_library_power_would_be_noticed():
    powers(by_the_library, np.ones(64, np.float32), 0.5)
    (code,) = by_the_library.inspect_llvm().values()

    assert SCALAR_FUNCTION.search(code)
