"""What pulls and pushes a row: umap-learn's gradients, in the one form that kernels of CPUs and GPUs share.

The derivation is in `_mean_field`. All values are float32; the decorators of callers decide on fused multiply-adds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ._power import power

f32 = np.float32

AT_REST = f32(2e-3)
"""A row has come to rest when no component would move this far; the stochastic descent scatters some ten times
wider."""
MOST_ITERATIONS = 64
STEPS_PER_FORCE = 2
"""The push takes most of the time and changes the least. Held for long, it could drive a row out of reach."""

_LEAST_RELAXATION, _MOST_RELAXATION = f32(0.1), f32(2.0)
_LARGEST_GRADIENT = f32(4.0)
# As far as one gradient carries the descent at its highest learning rate, 1/4.
_LARGEST_MOVE = f32(1.0)
_SOFTENING = f32(1e-3)
# Keeps d^(2b-2) finite on top of a neighbour, where the attraction vanishes.
_SMALLEST_SQUARED = f32(1e-6)


@njit(inline="always")
def attraction(strength: Any, squared: Any, a: Any, b: Any) -> Any:
    """q_j: what the difference to a neighbour of strength p_j at distance d, d^2 being `squared`, is weighted with."""
    s = max(squared, _SMALLEST_SQUARED)
    d_2b = power(s, b)
    return strength * f32(2.0) * a * b * d_2b / (s * (f32(1.0) + a * d_2b))


@njit(inline="always")
def repulsion(squared: Any, a: Any, b: Any, gamma: Any) -> Any:
    """What the difference to a training point at distance d, d^2 being `squared`, is weighted with."""
    return f32(2.0) * gamma * b / ((_SOFTENING + squared) * (f32(1.0) + a * power(squared, b)))


@njit(inline="always")
def cut_off(gradient: Any) -> Any:
    """A component of the repulsion as the descent would follow it."""
    return min(max(gradient, -_LARGEST_GRADIENT), _LARGEST_GRADIENT)


@njit(inline="always")
def bounded(move: Any) -> Any:
    """A component of a step."""
    return min(max(move, -_LARGEST_MOVE), _LARGEST_MOVE)


@njit(inline="always")
def relaxed(previous: Any, along: Any, squared: Any) -> Any:
    """The part of the way to go by Aitken's method.

    `along` is the last residual's product with the residual's change, `squared` the square of that change.
    """
    return min(max(-previous * along / squared, _LEAST_RELAXATION), _MOST_RELAXATION)


@njit(inline="always")
def is_visited(strength: Any, strongest: Any, n_epochs: Any) -> Any:
    """Whether a descent of `n_epochs` follows an edge at all."""
    return strength > 0.0 and strength * n_epochs >= strongest
