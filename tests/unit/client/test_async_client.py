"""The client for asyncio on sockets where no Triton is."""

import asyncio
import time

import pytest
from bertopic_client import AsyncTopicClient, ClientClosed, ConnectionFailed, InvalidInput, Timeout

SCHEMES = pytest.mark.parametrize("scheme", ["grpc", "http"])


@pytest.fixture
def run():
    """Run a coroutine; a task that it leaves behind is an error."""

    async def alone(coroutine):
        result = await coroutine
        left = asyncio.all_tasks() - {asyncio.current_task()}
        # grpc.aio keeps tasks of its own.
        assert not [task for task in left if "bertopic_client" in str(task)]
        return result

    return lambda coroutine: asyncio.run(alone(coroutine))


@SCHEMES
def test_a_refused_connection_is_tried_again_and_says_so(scheme, closed_port, run):
    url = f"{scheme}://127.0.0.1:{closed_port}"

    async def ask():
        async with AsyncTopicClient(url, retries=1) as client:
            await client.predict(["a"])

    with pytest.raises(ConnectionFailed, match="Tried 2 times") as failed:
        run(ask())
    assert failed.value.attempts == 2
    assert url in str(failed.value)
    assert failed.value.__cause__ is not None


@SCHEMES
def test_a_server_that_hangs_is_asked_again_after_the_attempts_timeout(scheme, silent_port, run):
    async def ask():
        settings = {"timeout": 20, "attempt_timeout": 0.2, "retries": 2}
        async with AsyncTopicClient(f"{scheme}://127.0.0.1:{silent_port}", **settings) as client:
            await client.predict(["a"])

    started = time.monotonic()
    with pytest.raises(Timeout, match=r"0\.2 s") as late:
        run(ask())
    assert late.value.attempts == 3
    assert 0.6 < time.monotonic() - started < 5


@SCHEMES
def test_a_server_that_is_not_there_is_not_ready(scheme, closed_port, run):
    async def ask():
        async with AsyncTopicClient(f"{scheme}://127.0.0.1:{closed_port}") as client:
            return await client.is_ready()

    assert run(ask()) is False


@SCHEMES
def test_a_cancelled_call_ends_at_once(scheme, silent_port, run):
    async def ask():
        async with AsyncTopicClient(f"{scheme}://127.0.0.1:{silent_port}") as client:
            calls = [asyncio.ensure_future(client.predict(["a"])), asyncio.ensure_future(client.topics())]
            await asyncio.sleep(0.1)
            for call in calls:
                call.cancel()
            return await asyncio.gather(*calls, return_exceptions=True)

    started = time.monotonic()
    assert [type(end) for end in run(ask())] == [asyncio.CancelledError] * 2
    assert time.monotonic() - started < 5


@SCHEMES
def test_a_stream_that_is_left_ends_at_once(scheme, silent_port, run):
    async def ask():
        async with AsyncTopicClient(f"{scheme}://127.0.0.1:{silent_port}") as client:
            stream = client.predict_stream(["a"] * 5000)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(stream.__anext__(), 0.2)
            await stream.aclose()

    started = time.monotonic()
    run(ask())
    assert time.monotonic() - started < 5


@SCHEMES
def test_no_more_requests_are_under_way_than_allowed(scheme, silent_port, run):
    async def ask():
        async with AsyncTopicClient(f"{scheme}://127.0.0.1:{silent_port}", max_in_flight=3) as client:
            calls = [asyncio.ensure_future(client.topics()) for _ in range(10)]
            await asyncio.sleep(0.2)
            [server] = client._servers._servers
            under_way = server.in_flight
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            return under_way, server.in_flight

    assert run(ask()) == (3, 0)


@SCHEMES
def test_closing_waits_for_requests_under_way(scheme, silent_port, run):
    async def ask():
        client = AsyncTopicClient(f"{scheme}://127.0.0.1:{silent_port}", timeout=0.4)
        asking = asyncio.ensure_future(client.topics())
        await asyncio.sleep(0.1)
        await asyncio.gather(client.close(), client.close())
        with pytest.raises(Timeout):
            await asking

    run(ask())


@SCHEMES
def test_a_closed_client_says_so(scheme, closed_port, run):
    async def ask():
        client = AsyncTopicClient(f"{scheme}://127.0.0.1:{closed_port}")
        await client.close()
        for use in (client.is_ready, client.topics, lambda: client.predict([])):
            with pytest.raises(ClientClosed, match="is closed"):
                await use()
        with pytest.raises(ClientClosed):
            client.predict_stream([])

    run(ask())


def test_empty_and_invalid_inputs_need_no_server(closed_port, run):
    async def ask():
        async with AsyncTopicClient(f"http://127.0.0.1:{closed_port}") as client:
            assert len(await client.predict([])) == 0
            assert [row async for row in client.predict_stream([])] == []
            with pytest.raises(InvalidInput):
                await client.embed([None])

    run(ask())
