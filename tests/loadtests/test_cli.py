import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from click.testing import CliRunner

from loadtests import cli


@pytest.fixture
def run():
    return lambda command, *arguments: CliRunner().invoke(command, arguments)


def test_a_port_in_use_is_one_clear_line(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run(cli.demo, "--once", "--port", str(port))
    assert result.exit_code == 1
    assert result.output.strip().splitlines() == [
        f"isochrone: port {port} on 127.0.0.1: Address already in use; choose another with --port"
    ]


def test_more_gateways_than_regions_are_refused(run):
    result = run(cli.demo, "--gateways", "9")
    assert result.exit_code == 2
    assert "the scenario has 3 regions" in result.output


def test_a_bad_scenario_is_refused_by_field(run, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("name: 3\n")
    result = run(cli.demo, "--scenario", str(path))
    assert result.exit_code == 2
    assert "$.name" in result.output


@pytest.fixture
def server():
    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        status = 200

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(self.status)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield Answer, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_load_reports_in_json(run, server):
    _, url = server
    result = run(
        cli.load, url, "--rate", "100", "--seconds", "0.2", "--arrivals", "even", "--deadline-ms", "2000", "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["requests"] == json.loads(result.output)["in_deadline"] == 20


def test_load_reports_errors_and_fails(run, server):
    answer, url = server
    answer.status = 503
    result = run(cli.load, url, "--rate", "50", "--seconds", "0.1", "--arrivals", "even")
    assert result.exit_code == 1
    assert "5 x 503" in result.output


@pytest.mark.parametrize("url", ["ftp://x", "nonsense", "http://x:99999", "http://x:port", "http://x:0", "http://[::1"])
def test_load_refuses_what_is_no_url(run, url):
    refused = run(cli.load, url)
    assert refused.exit_code == 2
    assert "http://HOST:PORT was expected" in refused.output


def test_load_says_in_words_that_nobody_is_there(run):
    result = run(cli.load, "http://127.0.0.1:1", "--rate", "9", "--seconds", "0.5", "--arrivals", "even")
    assert result.exit_code == 1
    assert "x Connection refused" in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--json",), "--json belongs to --once"),
        (("--port", "9", "--control-port", "9"), "port 9 would be used twice"),
    ],
)
def test_demo_refuses_options_that_make_no_sense(run, options, says):
    refused = run(cli.demo, *options)
    assert refused.exit_code == 2
    assert says in refused.output


@pytest.mark.parametrize(("url", "says"), [("redis://127.0.0.1:1/0", "refused"), ("http://x", "redis://")])
def test_demo_refuses_a_registry_that_does_not_answer(run, url, says):
    refused = run(cli.demo, "--redis", url, "--port", "0", "--control-port", "0")
    assert refused.exit_code == 1
    assert refused.output.startswith(f"isochrone: --redis {url}: ")
    assert says in refused.output
    assert len(refused.output.strip().splitlines()) == 1


def test_load_sends_a_trace_in_its_own_time(run, server, tmp_path):
    """Twenty requests in 0.2 s, as recorded; asked for 50 a second, the trace is stretched."""
    _, url = server
    path = tmp_path / "trace.csv"
    path.write_text("at,prompt_tokens,output_tokens\n" + "\n".join(f"{number / 100},5,5" for number in range(20)))
    options = ("--trace", str(path), "--seconds", "0.2", "--json")
    assert json.loads(run(cli.load, url, *options).output)["requests"] == 20
    assert json.loads(run(cli.load, url, *options, "--rate", "50").output)["requests"] == 10


def test_load_sends_the_demand_of_a_scenario(run, server, tmp_path):
    _, url = server
    path = tmp_path / "small.yaml"
    path.write_text(
        """extends: headline.yaml
demand:
  arrivals: {process: even, cv: null}
  classes: [{name: quick, surface: chat, total_s: 5, prompt_tokens: [3, 4], output_tokens: [1, 2]}]
"""
    )
    result = run(cli.load, url, "--scenario", str(path), "--model", "m", "--rate", "100", "--seconds", "0.1", "--json")
    assert json.loads(result.output)["requests"] == pytest.approx(10, abs=5)


def test_load_names_what_is_wrong_with_a_trace(run, server, tmp_path):
    _, url = server
    path = tmp_path / "trace.csv"
    path.write_text("at,prompt_tokens\n0,5\n")
    result = run(cli.load, url, "--trace", str(path))
    assert result.exit_code == 2
    assert "trace.csv:1: no column output_tokens" in result.output


def test_load_says_when_there_is_nothing_to_send(run, server):
    result = run(cli.load, server[1], "--rate", "0.001", "--seconds", "0.001")
    assert result.exit_code == 2
    assert "no request falls into" in result.output
