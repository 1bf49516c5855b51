"""Which server a request goes to, on a clock that the tests turn."""

import time

import pytest
from bertopic_client import ConnectionFailed, InvalidInput, NotReady, Timeout, Unavailable
from bertopic_client._outcomes import VersionGone
from bertopic_client._servers import FIRST_PAUSE, LONGEST_PAUSE, Servers, growing_pause


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return Clock


class Fleet:
    def __init__(self, *names):
        self.servers = Servers(names)

    def ask(self, error=None, tried=()):
        """One request from start to end; the name of the server that got it."""
        server = self.servers.pick(tried)
        self.servers.settle(server, time.monotonic(), error)
        return server.transport

    def fail(self, name, error=None):
        """Let one server fail."""
        others = [server for server in self.servers._servers if server.transport != name]
        assert self.ask(error or ConnectionFailed("gone"), tried=others) == name


def test_pauses_double_up_to_a_bound_and_half_of_each_is_chance():
    assert [growing_pause(i, 0.1, 2.0, 1.0) for i in (1, 2, 3)] == pytest.approx([0.1, 0.2, 0.4])
    assert growing_pause(2, 0.1, 2.0, 0.0) == pytest.approx(0.1)
    assert growing_pause(10_000, 0.1, 2.0, 1.0) == 2.0


def test_idle_servers_take_turns(clock):
    fleet = Fleet("a", "b", "c")
    assert [fleet.ask() for _ in range(6)] == ["a", "b", "c"] * 2


def test_the_least_busy_is_asked(clock):
    servers = Servers(["a", "b"])
    first = servers.pick(())
    assert [servers.pick(()).transport for _ in range(2)] == ["b", "a"]
    servers.settle(first, clock.now, None)
    assert servers.pick(()).transport in "ab"
    assert sorted(server.in_flight for server in servers._servers) == [1, 2]


@pytest.mark.parametrize("error", [ConnectionFailed("x"), NotReady("x"), Timeout("x")], ids=lambda e: type(e).__name__)
def test_a_failing_server_is_left_out_and_comes_back(clock, error):
    fleet = Fleet("a", "b")
    fleet.fail("a", error)
    assert {fleet.ask() for _ in range(5)} == {"b"}
    clock.now += FIRST_PAUSE
    assert {fleet.ask() for _ in range(5)} == {"a", "b"}


@pytest.mark.parametrize("error", [Unavailable("x"), InvalidInput("x"), VersionGone("x"), KeyboardInterrupt()])
def test_what_is_not_the_servers_fault_leaves_it_in(clock, error):
    fleet = Fleet("a", "b")
    fleet.fail("a", error)
    assert {fleet.ask() for _ in range(2)} == {"a", "b"}


def test_one_request_is_let_through_on_trial(clock):
    fleet = Fleet("a", "b")
    fleet.fail("a")
    clock.now += FIRST_PAUSE
    busy = [fleet.servers.pick(()) for _ in range(4)]
    assert [server.transport for server in busy].count("a") == 1


def test_every_failed_trial_makes_the_pause_longer(clock):
    fleet = Fleet("a", "b")
    server = fleet.servers._servers[0]
    for n in range(1, 10):
        fleet.fail("a")
        shortest, longest = (growing_pause(n, FIRST_PAUSE, LONGEST_PAUSE, chance) for chance in (0.0, 1.0))
        assert shortest <= server.out_until - clock.now <= longest
        clock.now = server.out_until
    assert fleet.ask(tried=fleet.servers._servers[1:]) == "a"
    assert server.failures == 0


def test_many_requests_that_fail_together_are_one_failure(clock):
    servers = Servers(["a", "b"])
    a = servers._servers[0]
    together = [servers.pick([servers._servers[1]]) for _ in range(64)]
    started = clock.now
    for server in together:
        clock.now += 0.001
        servers.settle(server, started, ConnectionFailed("gone"))
    assert a.failures == 1
    assert a.in_flight == 0


def test_with_all_left_out_the_first_one_due_is_asked(clock):
    fleet = Fleet("a", "b")
    fleet.fail("a")
    clock.now += FIRST_PAUSE / 4
    fleet.fail("b")
    soonest = min(fleet.servers._servers, key=lambda server: server.out_until)
    assert fleet.ask(InvalidInput("x")) == soonest.transport


def test_a_lone_server_is_always_asked(clock):
    fleet = Fleet("a")
    for _ in range(3):
        fleet.fail("a")
    assert fleet.ask() == "a"
