"""x^b in single precision, in arithmetic that a compiler can run in vector registers.

x^b = 2^(b log2 x), both factors from a number's own bits: log2 is the exponent plus a polynomial of the
mantissa, 2^l the exponent floor(l) times a polynomial of what remains. The coefficients interpolate log2(1 + t) / t
at Chebyshev nodes over [sqrt(1/2) - 1, sqrt(2) - 1] and 2^f over [-1/2, 1/2]. Relative error below 1.6e-6 while
|b log2 x| < 20.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

f32, i32 = np.float32, np.int32

_MANTISSA_BITS = i32(23)
_SQRT_HALF_BITS = i32(0x3F3504F3)

_LOG0, _LOG1, _LOG2, _LOG3 = f32(1.44269496), f32(-0.72135276), f32(0.48092404), f32(-0.36024199)
_LOG4, _LOG5, _LOG6, _LOG7 = f32(0.28707561), f32(-0.24882181), f32(0.23420985), f32(-0.14620353)
_EXP0, _EXP1, _EXP2 = f32(1.00000008), f32(0.69314721), f32(0.24022107)
_EXP3, _EXP4, _EXP5 = f32(0.05550327), f32(0.00967604), f32(0.00134004)


# The numba decorators of callers decide on fused multiply-adds; typed as Any since scalars have `view` only there.
@njit(inline="always")
def power(x: Any, b: Any) -> Any:
    """x^b for float32 x > 0, normal, and b > 0."""
    return _exp2(b * _log2(x))


@njit(inline="always")
def _log2(x: Any) -> Any:
    bits = f32(x).view(i32)
    # Split where the mantissa is nearest to 1 on either side.
    exponent = i32(i32(bits - _SQRT_HALF_BITS) >> _MANTISSA_BITS)
    t = i32(bits - (exponent << _MANTISSA_BITS)).view(f32) - f32(1.0)
    low = _LOG0 + t * (_LOG1 + t * (_LOG2 + t * _LOG3))
    high = _LOG4 + t * (_LOG5 + t * (_LOG6 + t * _LOG7))
    return f32(exponent) + t * (low + (t * t) * (t * t) * high)


@njit(inline="always")
def _exp2(x: Any) -> Any:
    # Conversion cuts towards zero: shifted to where that rounds to the nearest.
    whole = i32(i32(x + f32(128.5)) - i32(128))
    f = x - f32(whole)
    fraction = _EXP0 + f * (_EXP1 + f * (_EXP2 + f * (_EXP3 + f * (_EXP4 + f * _EXP5))))
    return i32(f32(fraction).view(i32) + (whole << _MANTISSA_BITS)).view(f32)
