"""Where umap-learn's stochastic descent is expected to come to rest: a layout without random numbers.

The descent (McInnes, Healy and Melville, UMAP, 2018, algorithm 5) visits the edge to neighbour e_j in proportion
to its strength p_j, each time with r draws from the n training points e_m. On average it no longer moves at the y
where

    sum_j p_j A(e_j - y) + r (sum_j p_j) F(y) = 0,        F(y) = mean_m R(y - e_m)

with umap-learn's gradients, d being the length of the difference x that they are given:

    A(x) = 2ab d^(2b-2) / (1 + a d^2b) x
    R(x) = 2 gamma b / ((0.001 + d^2) (1 + a d^2b)) x,    each component cut off at +-4.

The cut-off matters: without it the few points close by push much harder than they ever do in the descent.

A is a weight q times a difference. With F held, the root is approached by majorise-minimise steps, which need no
learning rate,

    y <- y + (sum_j q_j (e_j - y) + r (sum_j p_j) F(y)) / sum_j q_j,

and y goes a part of the way there, or beyond, that the last two residuals decide (Irons and Tuck, A version of the
Aitken accelerator for computer iteration, 1969): where points are few and the repulsion is steep, whole steps
would overshoot for ever.

F is a sum over all training points. It is smooth, so that k-means centroids stand for them, each weighted by its
points; their mean squared distance from it is added to d^2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ._gradients import (
    AT_REST,
    MOST_ITERATIONS,
    STEPS_PER_FORCE,
    attraction,
    bounded,
    cut_off,
    is_visited,
    relaxed,
    repulsion,
)

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
f32 = np.float32

# Neighbours are padded to whole vector registers.
_LANES = 16


class RepulsionField(NamedTuple):
    """What pushes: the training points, or centers that stand for them.

    Attributes
    ----------
    centers : float32 [n_components, m]
    weights : float32 [m]
        Share of the training points that a center stands for.
    spreads : float32 [m]
        Their mean squared distance from it.
    """

    centers: Floats
    weights: Floats
    spreads: Floats


class _Workspace(NamedTuple):
    """Memory for one row after another.

    Attributes
    ----------
    neighbors : float32 [n_components, padded k]
    strengths, none, squared, weights : float32 [padded k]
        p_j, zeros, d_j^2 and q_j.
    field_squared, field_weights : float32 [m]
    force : float32 [n_components]
        F at the row's place.
    proposal, residual : float32 [n_components]
        Where the steps lead, and how far that is.
    """

    neighbors: Floats
    strengths: Floats
    none: Floats
    squared: Floats
    weights: Floats
    field_squared: Floats
    field_weights: Floats
    force: Floats
    proposal: Floats
    residual: Floats


@njit(nogil=True, cache=True)
def settle(
    indices: Ints,
    strengths: Floats,
    embedding: Floats,
    field: RepulsionField,
    a: float,
    b: float,
    negative_sample_rate: float,
    repulsion_strength: float,
    n_epochs: int,
    positions: Floats,
) -> None:
    """Move every row from its start to its place.

    Parameters
    ----------
    indices : int32 [m, k]
        Neighbours in the training data.
    strengths : float32 [m, k]
        Membership strengths, 0 where there is no neighbour.
    embedding : float32 [n, n_components]
        Where the training data lie.
    field : RepulsionField
    a, b : float
        Shape of the similarity 1 / (1 + a d^2b).
    negative_sample_rate, repulsion_strength : float
        r and gamma.
    n_epochs : int
        Of the descent, which would not visit an edge n_epochs times weaker than the strongest.
    positions : float32 [m, n_components]
        The starts; overwritten.
    """
    a32, b32 = f32(a), f32(b)
    work = _allocate(indices.shape[1], field)
    for row in range(indices.shape[0]):
        total = _gather(indices[row], strengths[row], embedding, n_epochs, work)
        if total == f32(0.0):
            continue
        _settle_row(positions[row], field, a32, b32, f32(negative_sample_rate) * total, f32(repulsion_strength), work)


@njit(nogil=True, cache=True)
def _settle_row(y: Floats, field: RepulsionField, a: f32, b: f32, pushes: f32, gamma: f32, work: _Workspace) -> None:
    # Taking an array out of a tuple counts a reference, an atomic operation: done here, once a row.
    neighbors, strengths, none, squared, weights, field_squared, field_weights, force, proposal, residual = work
    centers, shares, spreads = field
    relaxation = f32(1.0)
    for iteration in range(MOST_ITERATIONS):
        _fill_force(y, centers, shares, spreads, a, b, gamma, field_squared, field_weights, force)
        proposal[:] = y
        for _ in range(STEPS_PER_FORCE):
            _step(proposal, neighbors, strengths, none, a, b, pushes, force, squared, weights)
        relaxation = _relaxation(y, proposal, residual, relaxation, iteration == 0)
        if _advance(y, residual, relaxation) < AT_REST:
            break


@njit(nogil=True, cache=True)
def _allocate(n_neighbors: int, field: RepulsionField) -> _Workspace:
    n_components, n_centers = field.centers.shape
    padded = -(-n_neighbors // _LANES) * _LANES
    return _Workspace(
        np.zeros((n_components, padded), f32),
        np.zeros(padded, f32),
        np.zeros(padded, f32),
        np.empty(padded, f32),
        np.empty(padded, f32),
        np.empty(n_centers, f32),
        np.empty(n_centers, f32),
        np.empty(n_components, f32),
        np.empty(n_components, f32),
        np.empty(n_components, f32),
    )


@njit(nogil=True, cache=True)
def _gather(indices: Ints, strengths: Floats, embedding: Floats, n_epochs: int, work: _Workspace) -> np.float32:
    """Bring one row's neighbours and p_j together; returns the sum of p_j."""
    strongest = strengths.max()
    total = f32(0.0)
    for j in range(indices.shape[0]):
        visited = is_visited(strengths[j], strongest, n_epochs)
        work.strengths[j] = strengths[j] / strongest if visited else f32(0.0)
        total += work.strengths[j]
        if visited:
            for d in range(embedding.shape[1]):
                work.neighbors[d, j] = embedding[indices[j], d]
    return total


# Reassociation and division without a check for zero let these loops run in vector registers. None of them both
# writes an array and adds up: a loop that writes goes element by element where its arrays nearly touch in memory,
# and a sum would round otherwise there.
_VECTORISED = {"reassoc", "contract", "nsz", "nnan", "ninf"}


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_VECTORISED)
def _fill_force(
    y: Floats,
    centers: Floats,
    shares: Floats,
    spreads: Floats,
    a: f32,
    b: f32,
    gamma: f32,
    squared: Floats,
    weights: Floats,
    force: Floats,
) -> None:
    """F(y)"""
    _fill_squared_distances(y, centers, spreads, squared)
    for m in range(squared.shape[0]):
        weights[m] = repulsion(squared[m], a, b, gamma)
    for d in range(y.shape[0]):
        coordinate = y[d]
        total = f32(0.0)
        for m in range(squared.shape[0]):
            total += shares[m] * cut_off(weights[m] * (coordinate - centers[d, m]))
        force[d] = total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_VECTORISED)
def _step(
    y: Floats,
    neighbors: Floats,
    strengths: Floats,
    none: Floats,
    a: f32,
    b: f32,
    pushes: f32,
    force: Floats,
    squared: Floats,
    q: Floats,
) -> None:
    """One majorise-minimise step."""
    _fill_squared_distances(y, neighbors, none, squared)
    for j in range(squared.shape[0]):
        q[j] = attraction(strengths[j], squared[j], a, b)
    total = f32(0.0)
    for j in range(q.shape[0]):
        total += q[j]
    for d in range(y.shape[0]):
        coordinate = y[d]
        pull = f32(0.0)
        for j in range(q.shape[0]):
            pull += q[j] * (neighbors[d, j] - coordinate)
        y[d] += bounded((pull + pushes * force[d]) / total)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_VECTORISED)
def _fill_squared_distances(y: Floats, points: Floats, spreads: Floats, squared: Floats) -> None:
    """Squared distances from y to `points` [n_components, m], each with its spread added."""
    for m in range(squared.shape[0]):
        squared[m] = spreads[m]
    for d in range(y.shape[0]):
        coordinate = y[d]
        for m in range(squared.shape[0]):
            squared[m] += (coordinate - points[d, m]) * (coordinate - points[d, m])


@njit(nogil=True, cache=True)
def _relaxation(y: Floats, proposal: Floats, residual: Floats, previous: f32, first: bool) -> np.float32:
    """The part of the way to the proposal that Aitken's method goes; brings the residual up to date."""
    along, squared = f32(0.0), f32(0.0)
    for d in range(y.shape[0]):
        current = proposal[d] - y[d]
        change = current - residual[d]
        along += residual[d] * change
        squared += change * change
        residual[d] = current
    if first or squared == f32(0.0):
        return f32(1.0)
    return f32(relaxed(previous, along, squared))


@njit(nogil=True, cache=True)
def _advance(y: Floats, residual: Floats, relaxation: f32) -> np.float32:
    """Go there; returns the residual's largest component."""
    largest = f32(0.0)
    for d in range(y.shape[0]):
        y[d] += relaxation * residual[d]
        largest = max(largest, abs(residual[d]))
    return largest
