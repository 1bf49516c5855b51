import time

import pytest
from bertopic_client import ConnectionFailed, InvalidInput, NotReady, ServerError, Timeout, Unavailable, UnknownModel
from bertopic_client._outcomes import VersionGone
from bertopic_client._retry import GONE_RETRIES, Attempts
from bertopic_client._servers import Servers


def attempts(transports=("only",), retries=2, timeout=60.0, attempt_timeout=None):
    return Attempts(Servers(transports), retries, timeout, attempt_timeout)


@pytest.mark.parametrize("kind", [Unavailable, ConnectionFailed, NotReady, Timeout])
def test_what_passes_is_tried_again_as_often_as_allowed(kind):
    tries = attempts(retries=2)
    with tries:
        raise kind("busy")
    assert 0.05 <= tries.pause < 0.1
    with tries:
        raise kind("busy")
    assert 0.1 <= tries.pause < 0.2
    with pytest.raises(kind, match=r"busy \(Tried 3 times\.\)") as last, tries:
        raise kind("busy")
    assert last.value.attempts == 3


@pytest.mark.parametrize("kind", [InvalidInput, UnknownModel, ServerError])
def test_what_would_fail_again_is_not_repeated(kind):
    with pytest.raises(kind, match=r"^no$") as first, attempts():
        raise kind("no")
    assert first.value.attempts == 1


def test_errors_that_are_not_about_the_request_pass_through():
    with pytest.raises(KeyboardInterrupt), attempts():
        raise KeyboardInterrupt


def test_a_version_that_is_gone_is_not_waited_for():
    tries = attempts(retries=100)
    for _ in range(GONE_RETRIES):
        with tries:
            raise VersionGone("gone")
    with pytest.raises(VersionGone), tries:
        raise VersionGone("gone")


def test_no_pause_reaches_beyond_the_deadline():
    with pytest.raises(Unavailable), attempts(timeout=0.02):
        raise Unavailable("busy")


def test_another_server_tries_next():
    tries = attempts(["a", "b"])
    asked = []
    for _ in range(2):
        with tries as (transport, _):
            asked.append(transport)
            raise Unavailable("busy")
    assert sorted(asked) == ["a", "b"]


def test_a_try_may_take_what_is_left_but_no_more_than_its_own_limit():
    with attempts(timeout=5.0) as (_, timeout):
        assert 4.9 < timeout <= 5.0
    with attempts(timeout=5.0, attempt_timeout=2.0) as (_, timeout):
        assert timeout == 2.0
    late = attempts(timeout=0.02)
    time.sleep(0.03)
    with late as (_, timeout):
        assert 0 < timeout <= 0.001
