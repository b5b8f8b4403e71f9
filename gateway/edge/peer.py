"""What a client's socket tells about the client: whether it is this machine, and how far away it is."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct

TCP_INFO_RTT = struct.Struct("=68xI")
"""Where Linux puts the smoothed round trip, in microseconds, in `struct tcp_info`."""


def address(transport: asyncio.BaseTransport) -> str:
    """The peer's IP address; empty for anything but TCP."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""


def is_loopback(peer: str) -> bool:
    try:
        return ipaddress.ip_address(peer).is_loopback
    except ValueError:
        return False


def round_trip(transport: asyncio.BaseTransport) -> float:
    """The kernel's smoothed round trip to the client, in seconds; 0 where it can't say."""
    sock = transport.get_extra_info("socket")
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_RTT.size)
        return float(TCP_INFO_RTT.unpack(info)[0]) / 1e6
    except (AttributeError, OSError, struct.error):
        return 0.0
