import grpc.aio
import pytest

from workers.proto.listening import listen, options


@pytest.fixture
async def server():
    made = grpc.aio.server(options=options(1 << 20, 8 << 10))
    yield made
    await made.stop(None)


async def test_it_says_which_port_it_has(server):
    port = await listen(server, "127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()


async def test_a_taken_port_is_a_fault_that_names_it(server):
    port = await listen(server, "127.0.0.1", 0)
    with pytest.raises(OSError, match=rf"cannot listen for gRPC on 127\.0\.0\.1:{port}: .*--grpc-port"):
        await listen(grpc.aio.server(options=options(1 << 20, 8 << 10)), "127.0.0.1", port)


async def test_an_address_of_ipv6_is_bracketed(server):
    with pytest.raises(OSError, match=r"on \[2001:db8::1\]:1"):
        await listen(server, "2001:db8::1", 1)


def test_what_is_too_much_is_said_in_both_bounds():
    said = dict(options(1000, 200))
    assert said["grpc.max_receive_message_length"] == 1000
    assert said["grpc.max_metadata_size"] == said["grpc.absolute_max_metadata_size"] == 200
