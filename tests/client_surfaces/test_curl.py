"""curl, as the documentation shows it."""

import json
import subprocess

CHAT = json.dumps({"model": "tinychat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8})


def curl(*arguments: str) -> tuple[int, dict[str, str], str]:
    """Status, headers (lower case) and body."""
    command = ["curl", "--silent", "--show-error", "--max-time", "20", "--include", *arguments]
    rest = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    head, _, body = rest.partition("\r\n\r\n")
    while head.startswith("HTTP/1.1 1"):  # 100 Continue
        head, _, body = body.partition("\r\n\r\n")
    status, *fields = head.split("\r\n")
    return int(status.split()[1]), {k.lower(): v for k, _, v in (field.partition(": ") for field in fields)}, body


def post(url: str, body: str, *headers: str) -> tuple[int, dict[str, str], str]:
    options = [option for header in ("content-type: application/json", *headers) for option in ("--header", header)]
    return curl(*options, "--data", body, url)


def test_chat_with_its_decision(gateway):
    status, headers, body = post(f"{gateway.url}/v1/chat/completions", CHAT, "x-deadline-ms: 90")
    assert status == 200
    assert json.loads(body)["choices"][0]["message"]["content"]
    assert headers["x-route-region"] == "europe-west4"
    assert float(headers["x-route-cost-usd"]) > 0
    assert headers["x-route-attempts"] == "1"


def test_stream_ends_with_done(gateway):
    body = json.dumps(json.loads(CHAT) | {"stream": True})
    status, headers, events = post(f"{gateway.url}/v1/chat/completions", body)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert events.rstrip().endswith("data: [DONE]")
    assert events.count("data: {") >= 3


def test_digits_by_the_open_inference_protocol(gateway):
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}
    status, _, body = post(f"{gateway.url}/v2/models/digits/infer", json.dumps({"inputs": [tensor]}))
    assert status == 200
    (output,) = json.loads(body)["outputs"]
    assert output["shape"] == [1, 10]
    assert abs(sum(output["data"]) - 1) < 1e-3


def test_open_inference_protocol_health_and_metadata(gateway):
    assert curl(f"{gateway.url}/v2/health/live")[0] == 200
    assert curl(f"{gateway.url}/v2/health/ready")[0] == 200
    assert curl(f"{gateway.url}/v2/models/digits/ready")[0] == 200
    status, _, body = curl(f"{gateway.url}/v2/models/digits")
    assert status == 200
    assert json.loads(body)["name"] == "digits"


def test_a_large_body_waits_for_100_continue_or_not(gateway):
    big = json.dumps({"model": "minilm", "input": ["word " * 400]})
    assert post(f"{gateway.url}/v1/embeddings", big, "expect: 100-continue")[0] == 200


def test_errors_have_one_shape(gateway):
    for status, arguments in (
        (404, [f"{gateway.url}/nowhere"]),
        (405, ["--request", "DELETE", f"{gateway.url}/v1/chat/completions"]),
        (400, ["--data", "{", "--header", "content-type: application/json", f"{gateway.url}/v1/chat/completions"]),
        (415, ["--data", CHAT, "--header", "content-encoding: gzip", f"{gateway.url}/v1/chat/completions"]),
    ):
        got, headers, body = curl(*arguments)
        assert got == status
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
        assert headers["x-request-id"]
        assert headers["x-should-retry"] == "false"


def test_control_plane_answers(gateway):
    for path in ("/healthz", "/readyz", "/metrics", "/admin/nodes"):
        assert curl(f"{gateway.control}{path}")[0] == 200
