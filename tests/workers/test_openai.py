import asyncio
import base64
import json

import aiohttp
import numpy as np
import openai
import pytest

from policies.records import TIMING_COMMENT, decode_timings
from policies.reports import REPORT_COMMENT, REPORT_FORMAT_HEADER, REPORT_HEADER, decode_report
from tests.workers.fakes import Echo, embedding_entry, serving, text_entry, until

TURNS = [{"role": "user", "content": "hello "}]


def client(bench, kind=openai.AsyncOpenAI):
    return kind(base_url=f"{bench.url}/v1", api_key="none", max_retries=0, timeout=10)


async def raw(bench, path, body, **headers):
    async with aiohttp.ClientSession() as session, session.post(bench.url + path, json=body, headers=headers) as reply:
        return reply.status, reply.headers, await reply.read()


async def test_a_chat_whole():
    async with serving(text_entry()) as bench, client(bench) as ai:
        reply = await ai.chat.completions.create(model="echo", messages=TURNS, max_completion_tokens=11)
    choice = reply.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "hello hello", "length")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (6, 11, 17)
    assert (reply.object, reply.model) == ("chat.completion", "echo")


async def test_a_chat_streamed():
    async with serving(text_entry()) as bench, client(bench) as ai:
        stream = await ai.chat.completions.create(
            model="echo", messages=TURNS, max_tokens=11, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "hello hello"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert [c.usage.total_tokens for c in chunks if c.usage] == [17]
    assert chunks[-1].choices == []
    assert len({chunk.id for chunk in chunks}) == 1


async def test_completions_whole_and_streamed_say_the_same():
    async with serving(text_entry()) as bench, client(bench) as ai:
        whole = await ai.completions.create(model="echo", prompt="ab", max_tokens=5)
        stream = await ai.completions.create(model="echo", prompt="ab", max_tokens=5, stream=True)
        chunks = [chunk async for chunk in stream]
    assert whole.choices[0].text == "ababa"
    assert "".join(chunk.choices[0].text for chunk in chunks) == "ababa"
    assert all(chunk.usage is None for chunk in chunks)


async def test_a_response_whole_and_streamed_say_the_same():
    asked = {"model": "echo", "input": "hello ", "max_output_tokens": 11}
    async with serving(text_entry()) as bench, client(bench) as ai:
        whole = await ai.responses.create(**asked)
        events = [event async for event in await ai.responses.create(**asked, stream=True)]
        async with ai.responses.stream(**asked, extra_body={"stop": "o h"}) as stream:
            collected = await stream.get_final_response()
    assert (whole.output_text, whole.status, whole.incomplete_details.reason) == (
        "hello hello", "incomplete", "max_output_tokens",
    )  # fmt: skip
    assert (whole.usage.input_tokens, whole.usage.output_tokens, whole.usage.total_tokens) == (6, 11, 17)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "hello hello"
    assert (events[0].type, events[-1].type) == ("response.created", "response.incomplete")
    assert events[-1].response.output_text == "hello hello"
    assert (collected.output_text, collected.status) == ("hell", "completed")


async def test_a_response_refuses_stored_state_by_name():
    async with serving(text_entry()) as bench, client(bench) as ai:
        with pytest.raises(openai.BadRequestError) as refusal:
            await ai.responses.create(model="echo", input="hello", previous_response_id="resp_1")
    assert refusal.value.param == "previous_response_id"


async def test_the_synchronous_client_works_too():
    def talk(ai):
        with ai:
            reply = ai.chat.completions.create(model="echo", messages=TURNS, max_tokens=5)
            stream = ai.chat.completions.create(model="echo", messages=TURNS, max_tokens=5, stream=True)
            return reply.choices[0].message.content, "".join(c.choices[0].delta.content or "" for c in stream)

    async with serving(text_entry()) as bench:
        assert await asyncio.to_thread(talk, client(bench, openai.OpenAI)) == ("hello", "hello")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_text_ends_the_answer_is_not_shown_and_frees_the_slot(stream):
    engine = Echo(slots=1)
    async with serving(text_entry(engine)) as bench, client(bench) as ai:
        reply = await ai.chat.completions.create(
            model="echo", messages=TURNS, max_tokens=400, stop="o h", stream=stream
        )
        if stream:
            chunks = [chunk async for chunk in reply]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            finish = chunks[-1].choices[0].finish_reason
        else:
            text, finish = reply.choices[0].message.content, reply.choices[0].finish_reason
        await until(lambda: engine.stopped == [0])
        assert bench.batcher.runners["echo:fp32"].tally.ended == {"ok": 1}
    assert (text, finish) == ("hell", "stop")
    assert engine.steps < 20


async def test_sampling_reaches_the_engine_and_seeds_differ_unless_given():
    engine = Echo()
    async with serving(text_entry(engine)) as bench, client(bench) as ai:
        for seed in (5, None, None):
            extra = {} if seed is None else {"seed": seed}
            await ai.chat.completions.create(
                model="echo", messages=TURNS, max_tokens=1, temperature=0.5, top_p=0.25, **extra
            )
    first, second, third = engine.sampling
    assert (first.temperature, first.top_p, first.seed, first.max_tokens) == (0.5, 0.25, 5, 1)
    assert second.seed != third.seed


async def test_timing_stands_before_done_and_in_the_header_of_whole_replies():
    body = {"model": "echo", "prompt": "ab", "max_tokens": 3}
    async with serving(text_entry()) as bench:
        _, headers, _ = await raw(bench, "/v1/completions", body)
        _, _, stream = await raw(bench, "/v1/completions", body | {"stream": True})
    assert decode_timings(headers["server-timing"].encode()).accel > 0
    *_, timing, done, rest = stream.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    assert timing.startswith(TIMING_COMMENT)
    figures = decode_timings(timing.removeprefix(TIMING_COMMENT))
    assert None not in (figures.queue, figures.prefill, figures.decode, figures.accel)


async def test_the_load_comes_with_the_head_of_a_stream_and_before_done_if_asked_for():
    body = {"model": "echo", "prompt": "ab", "max_tokens": 3, "stream": True}
    async with serving(text_entry()) as bench:
        _, headers, stream = await raw(bench, "/v1/completions", body, **{REPORT_FORMAT_HEADER: "JSON"})
        _, unasked, silent = await raw(bench, "/v1/completions", body)
    first = decode_report(headers[REPORT_HEADER].encode())
    *_, timing, load, done, rest = stream.split(b"\n\n")
    assert (done, rest, timing.startswith(TIMING_COMMENT)) == (b"data: [DONE]", b"", True)
    last = decode_report(load.removeprefix(REPORT_COMMENT))
    assert (first.running, last.running) == (1, 0)
    assert last.seq > first.seq
    assert REPORT_HEADER not in unasked
    assert REPORT_COMMENT not in silent


async def test_no_byte_of_a_stream_is_sent_before_its_first_token():
    engine = Echo()
    engine.gate.clear()
    body = json.dumps({"model": "echo", "prompt": "ab", "max_tokens": 3, "stream": True}).encode()
    async with serving(text_entry(engine)) as bench:
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await until(lambda: bench.batcher.runners["echo:fp32"].running)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(head := asyncio.ensure_future(reader.read(1))), 0.1)
        engine.gate.set()
        assert await head == b"H"
        assert b"[DONE]" in await reader.readuntil(b"[DONE]")
        writer.close()
        await writer.wait_closed()


async def test_a_stream_that_is_refused_before_its_first_token_is_an_ordinary_refusal():
    engine = Echo()
    engine.broken = True
    async with serving(text_entry(engine)) as bench:
        status, _, body = await raw(bench, "/v1/completions", {"model": "echo", "prompt": "a", "stream": True})
    assert (status, json.loads(body)["error"]["code"]) == (500, "internal_error")


async def test_a_stream_that_breaks_ends_in_an_error_event_without_done_and_without_a_clean_end():
    engine = Echo(pause=0.005)
    async with serving(text_entry(engine)) as bench, aiohttp.ClientSession() as session:
        body = {"model": "echo", "prompt": "ab", "max_tokens": 400, "stream": True}
        async with session.post(f"{bench.url}/v1/completions", json=body) as reply:
            got = await reply.content.readuntil(b"\n\n")
            engine.broken = True
            cut = False
            while not cut:
                try:
                    got += await reply.content.readuntil(b"\n\n")
                except aiohttp.ClientPayloadError:
                    cut = True
    last = [event for event in got.split(b"\n\n") if event][-1]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "stream_interrupted"
    assert b"[DONE]" not in got


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_in_mid_generation_frees_its_slot_within_100_ms(stream):
    engine = Echo(slots=1, pause=0.005)
    body = json.dumps({"model": "echo", "prompt": "ab", "max_tokens": 500, "stream": stream}).encode()
    async with serving(text_entry(engine)) as bench:
        _, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await until(lambda: engine.steps > 3)
        begun = engine.steps
        writer.close()
        await until(lambda: engine.stopped == [0])
        assert (engine.steps - begun) * 0.005 < 0.1, "in the engine's own steps, so that a busy machine is not to blame"
        await writer.wait_closed()
        await bench.server.idle()
        assert bench.batcher.runners["echo:fp32"].tally.ended == {"cancelled": 1}


async def test_a_client_that_leaves_the_queue_leaves_no_trace_on_the_engine():
    engine = Echo(slots=1, pause=0.005)
    async with serving(text_entry(engine)) as bench, client(bench) as ai:
        first = asyncio.ensure_future(ai.completions.create(model="echo", prompt="a", max_tokens=100))
        await until(lambda: engine.steps > 0)
        second = asyncio.ensure_future(ai.completions.create(model="echo", prompt="b", max_tokens=100))
        await until(lambda: len(bench.batcher.queue) == 1)
        second.cancel()
        await until(lambda: len(bench.batcher.queue) == 0, seconds=0.2)
        await first
    assert len(engine.sampling) == 1


async def test_many_requests_generate_together():
    engine = Echo(slots=4, pause=0.002)
    async with serving(text_entry(engine)) as bench, client(bench) as ai:
        asked = [ai.completions.create(model="echo", prompt=f"{n}", max_tokens=20) for n in range(4)]
        replies = await asyncio.gather(*asked)
    assert [reply.choices[0].text for reply in replies] == [str(n) * 20 for n in range(4)]
    assert engine.steps < 60


async def test_a_prompt_that_leaves_no_room_is_refused_and_answers_are_cut_to_the_context():
    async with serving(text_entry()) as bench, client(bench) as ai:
        with pytest.raises(openai.BadRequestError) as error:
            await ai.completions.create(model="echo", prompt="x" * 512)
        reply = await ai.completions.create(model="echo", prompt="x" * 500, max_tokens=400)
    assert error.value.param == "prompt"
    assert "512" in error.value.message
    assert reply.usage.completion_tokens == 12


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"model": "echo", "messages": TURNS, "n": 2}, "n"),
        ("/v1/chat/completions", {"model": "echo", "messages": TURNS, "temperature": "hot"}, "temperature"),
        ("/v1/chat/completions", {"model": "echo", "messages": "hi"}, "messages"),
        ("/v1/chat/completions", {"model": "echo", "messages": []}, "messages"),
        ("/v1/completions", {"model": "echo", "prompt": "a", "echo": True}, "echo"),
        ("/v1/completions", {"model": "echo", "prompt": ["a", "b"]}, "prompt"),
        ("/v1/embeddings", {"model": "lengths", "input": [1, 2]}, "input"),
        ("/v1/embeddings", {"model": "echo", "input": "a"}, "model"),
    ],
)
async def test_what_is_wrong_with_a_body_is_said_by_its_field(path, body, param):
    async with serving(text_entry(), embedding_entry()) as bench:
        status, _, reply = await raw(bench, path, body)
    error = json.loads(reply)["error"]
    assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert error["message"]


async def test_embeddings_by_the_clients_default_and_as_numbers():
    async with serving(embedding_entry()) as bench, client(bench) as ai:
        packed = await ai.embeddings.create(model="lengths", input=["a", "bcd"])
        plain = await ai.embeddings.create(model="lengths", input="bcd", encoding_format="float")
    assert [item.embedding for item in packed.data] == [[1.0, 97.0, 0.5], [3.0, 98.0, 0.5]]
    assert plain.data[0].embedding == [3.0, 98.0, 0.5]
    assert (packed.usage.prompt_tokens, packed.usage.total_tokens) == (4, 4)


async def test_base64_is_little_endian_float32():
    body = {"model": "lengths", "input": "bcd", "encoding_format": "base64"}
    async with serving(embedding_entry()) as bench:
        _, _, reply = await raw(bench, "/v1/embeddings", body)
    packed = base64.b64decode(json.loads(reply)["data"][0]["embedding"])
    assert np.frombuffer(packed, "<f4").tolist() == [3.0, 98.0, 0.5]


async def test_many_sentences_keep_their_order_over_several_batches():
    async with serving(embedding_entry()) as bench, client(bench) as ai:
        reply = await ai.embeddings.create(model="lengths", input=["x" * n for n in range(1, 12)])
        mixed = await ai.embeddings.create(model="lengths", input=["x" * (n * 97 % 500 + 1) for n in range(20)])
        assert bench.batcher.runners["lengths:fp32"].tally.items == 11 + 20
    assert [item.embedding[0] for item in reply.data] == list(range(1, 12))
    assert [item.embedding[0] for item in mixed.data] == [n * 97 % 500 + 1 for n in range(20)]
    assert [item.index for item in reply.data] == list(range(11))


async def test_models_are_listed_with_their_variants():
    async with serving(text_entry(variant="int8"), text_entry(), embedding_entry()) as bench, client(bench) as ai:
        listed = [model async for model in ai.models.list()]
        one = await ai.models.retrieve("echo")
        with pytest.raises(openai.NotFoundError):
            await ai.models.retrieve("other")
    assert [model.id for model in listed] == ["echo", "lengths"]
    assert one.variants == [{"variant": "int8", "quality": 1.0}, {"variant": "fp32", "quality": 1.0}]


async def test_the_header_selects_the_variant():
    async with serving(text_entry(variant="int8"), text_entry()) as bench, client(bench) as ai:
        asked = {"model": "echo", "prompt": "a", "max_tokens": 1}
        default = await ai.completions.create(**asked)
        named = await ai.completions.create(**asked, extra_headers={"x-isochrone-variant": "fp32"})
    assert (default.system_fingerprint, named.system_fingerprint) == ("echo:int8", "echo:fp32")


async def test_a_deadline_that_passes_in_the_queue_is_refused_unexecuted():
    engine = Echo(slots=1, pause=0.005)
    async with serving(text_entry(engine)) as bench, client(bench) as ai:
        first = asyncio.ensure_future(ai.completions.create(model="echo", prompt="a", max_tokens=100))
        await until(lambda: engine.steps > 0)
        body = {"model": "echo", "prompt": "b"}
        status, headers, _ = await raw(bench, "/v1/completions", body, **{"x-deadline-ms": "20"})
        await first
    assert (status, headers["x-isochrone-executed"]) == (504, "0")
    assert len(engine.sampling) == 1


async def test_a_first_token_s_deadline_orders_the_queue():
    headers = {"x-slo-ttft-ms": "500", "x-deadline-ms": "60000"}
    async with serving(text_entry(), executing=False) as bench:
        asked = {"model": "echo", "messages": TURNS, "stream": True}
        one = asyncio.ensure_future(raw(bench, "/v1/chat/completions", asked, **headers))
        await until(lambda: len(bench.batcher.queue))
        (job,) = bench.batcher.queue.waiting("echo:fp32")
        one.cancel()
    assert job.urgency - job.arrived == pytest.approx(0.5)
