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


@pytest.mark.parametrize("url", ["ftp://x", "nonsense"])
def test_load_refuses_what_is_no_url(run, url):
    assert run(cli.load, url).exit_code == 2
