"""Back-pressure: a full outlet stops whatever feeds it, and only that."""

from __future__ import annotations

from gateway.edge.flow import HIGH_WATER, Outlet
from tests.fakes import FakeTransport


def test_a_full_outlet_stops_its_source_and_lets_it_go_again() -> None:
    sink, source = FakeTransport(), FakeTransport()
    outlet = Outlet(sink)
    assert sink.high_water == HIGH_WATER
    outlet.attach(source)
    outlet.pause()
    assert not source.reading
    outlet.resume()
    assert source.reading


def test_it_is_known_whether_this_source_had_to_wait() -> None:
    outlet = Outlet(FakeTransport())
    outlet.pause()
    outlet.resume()
    outlet.attach(FakeTransport())
    assert not outlet.held_up, "that was before it came"
    outlet.pause()
    outlet.resume()
    assert outlet.held_up
    outlet.detach()
    assert not outlet.held_up


def test_a_source_attached_to_a_full_outlet_stops_at_once() -> None:
    source = FakeTransport()
    outlet = Outlet(FakeTransport())
    outlet.pause()
    outlet.attach(source)
    assert not source.reading
    assert repr(outlet) == "<Outlet paused fed>"


def test_a_source_is_left_readable_when_it_is_done() -> None:
    source = FakeTransport()
    outlet = Outlet(FakeTransport())
    outlet.attach(source)
    outlet.pause()
    outlet.detach()
    assert source.reading
    outlet.resume()
    outlet.detach()
    outlet.pause()
    assert source.reading
    assert repr(outlet) == "<Outlet paused>"


def test_a_closing_source_is_no_fault() -> None:
    class Closing(FakeTransport):
        def pause_reading(self) -> None:
            raise RuntimeError("closing")

        def resume_reading(self) -> None:
            raise RuntimeError("closing")

    outlet = Outlet(FakeTransport())
    outlet.attach(Closing())
    outlet.pause()
    outlet.resume()
    assert not outlet.paused
