import asyncio
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import DataFrame, GoAwayFrame, SettingsFrame, WindowUpdateFrame
from support.raw_http2 import RawHttp2

from rongcloud_groups.emulator import Emulator, Faults, GoAway, StreamsDrop, Universe

EVERY = Universe(unknown_share=0)


async def test_one_connection_carries_many_requests_at_once() -> None:
    async with Emulator(universe=EVERY, latency=0.05) as emulator, RawHttp2(emulator) as client:
        streams = [client.ask(f"x{number}") for number in range(20)]
        client.flush()
        for number, stream in enumerate(streams):
            response = await client.response(stream)
            assert response.headers[":status"] == "200"
            assert int(response.headers["content-length"]) == len(response.body)
            assert response.profiles[0]["groupId"] == f"x{number}"
    report = emulator.report()
    assert (report.connections, report.max_requests_on_connection) == (1, 20)
    assert report.protocol_errors == 0


async def test_a_large_response_waits_for_the_clients_window() -> None:
    async with Emulator(universe=EVERY) as emulator, RawHttp2(emulator, window=100) as client:
        stream = client.ask(*(f"x{number}" for number in range(50)))
        client.flush()
        while len(client.responses[stream].body) < 100:
            await client.read()
        assert len(client.responses[stream].body) == 100
        client.widen(stream, 1_000_000)
        response = await client.response(stream)
        assert len(response.profiles) == 50


async def test_the_whole_connections_window_is_kept_as_well() -> None:
    async with Emulator(universe=EVERY) as emulator, RawHttp2(emulator) as client:
        streams = [client.ask(*(f"x{number}" for number in range(50))) for _ in range(4)]
        client.flush()
        received = 0
        while received < 65_535:
            await client.read()
            received = sum(len(response.body) for response in client.responses.values())
        assert received == 65_535
        client.widen(0, 1_000_000)
        for stream in streams:
            assert len((await client.response(stream)).profiles) == 50


async def test_a_request_counts_when_its_headers_arrive() -> None:
    async with Emulator() as emulator, RawHttp2(emulator) as client:
        client.ask("x", end=False)
        client.flush()
        await emulator.wait_for(1)
        assert len(emulator.arrivals) == 1
        assert emulator.report().codes == {}


async def test_a_cancelled_request_gets_no_response() -> None:
    async with Emulator(universe=EVERY, latency=0.05) as emulator, RawHttp2(emulator) as client:
        abandoned, kept, unfinished = client.ask("x1"), client.ask("x2"), client.ask("x3", end=False)
        client.flush()
        await emulator.wait_for(3)
        client.cancel(abandoned)
        client.cancel(unfinished)
        client.flush()
        assert (await client.response(kept)).profiles
        assert not client.responses[abandoned].headers


@pytest.mark.parametrize(("fault", "code"), [("rst", ErrorCodes.INTERNAL_ERROR), ("refuse", ErrorCodes.REFUSED_STREAM)])
async def test_a_stream_is_reset_and_the_others_live(fault: str, code: int) -> None:
    async with Emulator(universe=EVERY, faults=Faults(at={1: fault})) as emulator, RawHttp2(emulator) as client:
        first, second = client.ask("x1"), client.ask("x2")
        client.flush()
        assert (await client.response(second)).profiles
        assert (await client.response(first)).reset == code
        assert emulator.report().faults == {fault: 1}


async def test_a_cut_response_ends_short_of_its_length() -> None:
    async with Emulator(universe=EVERY, faults=Faults(at={1: "cut"})) as emulator, RawHttp2(emulator) as client:
        stream = client.ask("x1")
        client.flush()
        response = await client.response(stream)
        assert response.ended
        assert 0 < len(response.body) < int(response.headers["content-length"])


async def test_a_dropped_connection_ends_in_the_middle_of_a_response() -> None:
    async with Emulator(universe=EVERY, faults=Faults(at={1: "drop"})) as emulator, RawHttp2(emulator) as client:
        stream = client.ask("x1")
        client.flush()
        await client.end()
        response = client.responses[stream]
        assert not response.ended
        assert 0 < len(response.body) < int(response.headers["content-length"])


async def test_a_hung_request_gets_no_response_and_the_others_do() -> None:
    async with Emulator(universe=EVERY, faults=Faults(at={1: "hang"})) as emulator, RawHttp2(emulator) as client:
        hung, second = client.ask("x1"), client.ask("x2")
        client.flush()
        assert (await client.response(second)).profiles
        assert not client.responses[hung].headers


async def test_a_slow_body_comes_in_pieces() -> None:
    faults = Faults(at={1: "slow-body"}, piece_pause=0.001)
    async with Emulator(universe=EVERY, faults=faults) as emulator, RawHttp2(emulator) as client:
        stream = client.ask("x1")
        client.flush()
        response = await client.response(stream)
        assert response.pieces == 10
        assert response.profiles


async def test_a_slow_body_that_is_cancelled_stops() -> None:
    faults = Faults(at={1: "slow-body"}, piece_pause=0.01)
    async with Emulator(universe=EVERY, faults=faults) as emulator, RawHttp2(emulator) as client:
        slow = client.ask("x1")
        client.flush()
        await client.read_until(DataFrame)
        client.cancel(slow)
        emulator.service.latency = 0.05
        second = client.ask("x2")
        client.flush()
        assert (await client.response(second)).profiles
        assert client.responses[slow].pieces < 10


@pytest.mark.parametrize("standing", [True, False])
async def test_goaway_lets_what_is_in_flight_finish(standing: bool) -> None:  # noqa: FBT001  a parameter of the test
    faults = Faults(goaway=GoAway("goaway", 3)) if standing else Faults(at={3: "goaway"})
    async with Emulator(universe=EVERY, faults=faults, latency=0.02) as emulator, RawHttp2(emulator) as client:
        streams = [client.ask(f"x{number}") for number in range(3)]
        client.flush()
        goaway = await client.read_until(GoAwayFrame)
        assert (goaway.last_stream_id, goaway.error_code) == (streams[2], ErrorCodes.NO_ERROR)
        late = client.ask("late")
        client.flush()
        for stream in streams:
            assert (await client.response(stream)).profiles
        await client.end()
        assert not client.responses[late].headers
        report = emulator.report()
        assert report.never_processed == 1
        assert (report.batch_requests, report.ids_asked) == (4, 3)


async def test_goaway_may_leave_out_the_newest_in_flight() -> None:
    faults = Faults(goaway=GoAway("goaway-lower", 4))
    async with Emulator(universe=EVERY, faults=faults, latency=0.02) as emulator, RawHttp2(emulator) as client:
        streams = [client.ask(f"x{number}") for number in range(4)]
        client.flush()
        assert (await client.read_until(GoAwayFrame)).last_stream_id == streams[1]
        for stream in streams[:2]:
            assert (await client.response(stream)).profiles
        await client.end()
        assert not any(client.responses[stream].headers for stream in streams[2:])
        assert emulator.report().never_processed == 2


async def test_goaway_leaves_out_only_requests_newer_than_every_response() -> None:
    faults = Faults(goaway=GoAway("goaway-lower", 2))
    async with Emulator(universe=EVERY, faults=faults) as emulator, RawHttp2(emulator) as client:
        first = client.ask("x1")
        client.flush()
        assert (await client.response(first)).profiles
        client.ask("x2")
        client.flush()
        assert (await client.read_until(GoAwayFrame)).last_stream_id == first
        await client.end()


async def test_goaway_never_leaves_out_a_request_with_a_response_out_of_turn() -> None:
    faults = Faults(goaway=GoAway("goaway-lower", 3))
    async with Emulator(universe=EVERY, faults=faults, latency=0.2) as emulator, RawHttp2(emulator) as client:
        slow = client.ask("x1")
        client.flush()
        await emulator.wait_for(1)
        emulator.service.latency = 0
        answered = client.ask("x2")
        client.flush()
        assert (await client.response(answered)).profiles
        client.ask("x3")
        client.flush()
        assert (await client.read_until(GoAwayFrame)).last_stream_id == answered
        assert (await client.response(slow)).profiles
        assert emulator.report().never_processed == 1


async def test_no_response_becomes_due_on_a_connection_that_is_being_closed() -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    async with Emulator(universe=EVERY, latency=0.05) as emulator, RawHttp2(emulator) as client:
        client.stop_reading()  # so that the connection stays open until the emulator aborts it
        client.ask("x1")
        client.flush()
        await emulator.wait_for(1)
        await emulator.close_connections()
        assert not emulator.connections
    assert errors == []


async def test_goaway_may_close_with_what_is_in_flight() -> None:
    faults = Faults(goaway=GoAway("goaway-close", 2))
    async with Emulator(universe=EVERY, faults=faults, latency=5) as emulator, RawHttp2(emulator) as client:
        streams = [client.ask(f"x{number}") for number in range(2)]
        client.flush()
        await client.end()
        assert client.goaway is not None
        assert client.goaway.last_stream_id == streams[1]
        assert not any(client.responses[stream].headers for stream in streams)


async def test_a_second_goaway_is_not_sent() -> None:
    faults = Faults(at={1: "goaway", 2: "goaway"})
    async with Emulator(universe=EVERY, faults=faults, latency=0.01) as emulator, RawHttp2(emulator) as client:
        streams = [client.ask("x1", end=False), client.ask("x2")]
        client.flush()
        await client.read_until(GoAwayFrame)
        client.goaway = None
        client.write(DataFrame(streams[0], data=b"groupIds=x1", flags=["END_STREAM"]))
        for stream in streams:
            assert (await client.response(stream)).profiles
        await client.end()
        assert client.goaway is None


@pytest.mark.parametrize("streams", [100, 3, None])
async def test_the_stream_limit_is_announced_or_not(streams: int | None) -> None:
    async with Emulator(faults=Faults(streams=streams)) as emulator, RawHttp2(emulator) as client:
        await client.read_until(SettingsFrame)
        assert client.settings[0].get(SettingCodes.MAX_CONCURRENT_STREAMS) == streams


async def test_the_stream_limit_is_lowered_under_way_and_kept() -> None:
    faults = Faults(streams_drop=StreamsDrop(to=1, at=2))
    async with Emulator(universe=EVERY, faults=faults, latency=0.02) as emulator, RawHttp2(emulator) as client:
        streams = [client.ask("x1"), client.ask("x2")]
        client.flush()
        for stream in streams:
            assert (await client.response(stream)).profiles
        assert client.settings[-1] == {SettingCodes.MAX_CONCURRENT_STREAMS: 1}
        client.ask("x3")
        client.ask("x4")
        client.flush()
        await client.end()
        assert emulator.report().protocol_errors == 1


async def test_a_client_that_breaks_the_protocol_gets_an_error_and_is_counted() -> None:
    async with Emulator() as emulator, RawHttp2(emulator) as client:
        client.write(WindowUpdateFrame(0, window_increment=2**31 - 1))
        await client.end()
        assert client.goaway is not None
        assert client.goaway.error_code == ErrorCodes.FLOW_CONTROL_ERROR
        assert emulator.report().protocol_errors == 1


async def test_the_clients_goaway_ends_the_connection() -> None:
    async with Emulator() as emulator, RawHttp2(emulator) as client:
        client.write(GoAwayFrame(last_stream_id=0))
        await client.end()
        assert emulator.report().protocol_errors == 0


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    faults = Faults(idle=0.05)
    async with Emulator(universe=EVERY, faults=faults, latency=0.2) as emulator, RawHttp2(emulator) as client:
        stream = client.ask("x1")
        client.flush()
        assert (await client.response(stream)).profiles
        await client.end()
        assert emulator.report().faults == {"idle": 1}


async def test_an_open_connection_can_turn_into_a_black_hole() -> None:
    async with Emulator(universe=EVERY, latency=0.02) as emulator, RawHttp2(emulator) as client:
        client.ask("x1")
        client.flush()
        await emulator.wait_for(1)
        emulator.faults.black_hole = True
        client.ask("x2")
        client.flush()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.read_until(DataFrame)
        assert emulator.report().batch_requests == 1
