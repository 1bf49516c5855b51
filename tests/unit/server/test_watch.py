"""What a canary's outcome says about its model."""

from __future__ import annotations

import time

import pytest
from bertopic_server._canary import Outcome, Sung
from bertopic_server._watch import Health

NOT_HEALTHY = "Stub process 'A-{}_0_0' is not healthy."


@pytest.fixture
def health() -> Health:
    """A model that was up, and that a canary waits for."""
    return Health(up=True, reason="", waiting_since=time.monotonic() - 5)


@pytest.mark.parametrize("outcome", [Outcome.busy, Outcome.silent], ids=lambda outcome: outcome.value)
def test_late_is_not_dead(health: Health, outcome: Outcome) -> None:
    health.hear(Sung(outcome, 0.1, "Exceeds maximum queue size"), "A-text")
    assert health.up
    assert health.waited(time.monotonic()) >= 5, "the wait goes on"
    assert not health.fault


def test_an_answer_ends_the_wait(health: Health) -> None:
    health.up, health.refusals = False, 2
    health.hear(Sung(Outcome.answered, 0.25), "A-text")
    assert health.up
    assert health.canary_seconds == 0.25
    assert health.waited(time.monotonic()) == 0
    assert health.refusals == 0


def test_errors_add_up(health: Health) -> None:
    for _ in range(2):
        health.hear(Sung(Outcome.refused, 0.1, "out of memory"), "A-text")
    assert not health.up
    assert health.reason == "out of memory"
    assert health.refusals == 2
    assert not health.fault


@pytest.mark.parametrize(("process", "own"), [("text", True), ("bert", False)], ids=["own", "of what it calls"])
def test_whose_process_triton_complains_of(health: Health, process: str, own: bool) -> None:
    health.hear(Sung(Outcome.refused, 0.1, NOT_HEALTHY.format(process)), "A-text")
    assert bool(health.fault) == own


def test_what_is_loaded_again_begins_anew(health: Health) -> None:
    health.fault, health.refusals = "hung", 3
    generation = health.generation
    health.forget("loaded again")
    assert (health.up, health.reason, health.fault, health.refusals) == (False, "loaded again", "", 0)
    assert health.generation > generation


def test_answers_to_others_make_it_ready(health: Health) -> None:
    health.forget("started again")
    health.hear(Sung(Outcome.busy, 0.1, "has more to do"), "A-text")
    health.see(10, 7, 1.0)
    assert not health.up, "these may be answers of before"
    health.see(12, 7, 2.0)
    assert not health.up, "executed, not answered"
    health.see(13, 8, 3.0)
    assert health.up
    assert health.progressed_at == 3.0


def test_answers_to_others_do_not_outweigh_errors(health: Health) -> None:
    health.see(10, 7, 1.0)
    health.hear(Sung(Outcome.refused, 0.1, "out of memory"), "A-text")
    health.see(11, 8, 2.0)
    assert not health.up
