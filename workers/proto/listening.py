"""How both programs listen for gRPC: a port that is theirs alone, and bounds on what one message may bring."""

from __future__ import annotations

from typing import Any

Options = tuple[tuple[str, int], ...]


def options(body_bytes: int, head_bytes: int) -> Options:
    """Of a grpc.aio server that takes so much in one message and in its metadata."""
    return (
        ("grpc.so_reuseport", 0),  # a second server on a taken port must fail, not share its calls
        ("grpc.max_receive_message_length", body_bytes),
        ("grpc.max_send_message_length", -1),  # answers are bounded where they are made, or come in
        ("grpc.max_metadata_size", head_bytes),
        ("grpc.absolute_max_metadata_size", head_bytes),
    )


async def listen(server: Any, host: str, port: int) -> int:
    """Start a server; returns the port, which matters when 0 was asked for. Raises OSError when it cannot be had."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        taken = int(server.add_insecure_port(place))
    except RuntimeError as error:
        hint = "the port is taken, or the address not this machine's: choose another with --grpc-port"
        raise OSError(f"cannot listen for gRPC on {place}: {hint}") from error
    await server.start()
    return taken
