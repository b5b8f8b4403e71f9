"""`make bench-edge`: CPU microseconds per proxied 1 KiB POST, the gateway beside nginx as a plain proxy, in one run.

The gateway makes its full decision over 32 nodes registered in a real Redis; nginx passes through to the same four
upstream ports. Both run on one core of their own where there are two; the rounds alternate, so that drift of the
machine hits both. CPU comes from /proc, so what the load generator costs does not count. Writes build/bench/edge.json.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import redis
import uvloop

from loadtests.embedded import start_redis
from loadtests.live.bench_ends import BODY, CONNECTIONS, MODEL, PORTS, send, serve_stub
from loadtests.processes import Child, ChildError, end_all
from policies import records
from policies.records import Curve, Endpoint, Load, MarginalPrice, Worker

NODES = 32
SECONDS = 4.0
"""Of load per round; at 10 ms ticks of /proc this resolves far below 1 %."""
ROUNDS = 5
TARGET = 3.0
"""The most CPU we allow ourselves, in nginx's: less than Envoy spends on a plain hop."""
HEARTBEAT_SECONDS = 1.0
REGION = "bench"
RESULT = Path("build/bench/edge.json")

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


# The fleet.


def workers(ports: list[int]) -> list[Worker]:
    """32 nodes of eight prices, on the stub's four ports."""
    return [
        Worker(
            id=f"bench-{index:02d}",
            boot="b1",
            seq=int(time.time() * 1e3),
            address=f"127.0.0.1:{ports[index % PORTS]}",
            region=REGION,
            price=MarginalPrice(0.5 + 0.25 * (index // 4)),
            endpoints=(
                Endpoint(model=MODEL, variant="int8", quality=0.99, curve=Curve(0.0005, prefill=1e-7), max_batch=64),
            ),
        )
        for index in range(NODES)
    ]


def register(client: redis.Redis, fleet: list[Worker]) -> None:
    pipe = client.pipeline()
    pipe.sadd(records.REGIONS, REGION)
    for worker in fleet:
        pipe.set(records.node_key(REGION, worker.id), records.seal_worker(worker))
        pipe.sadd(records.ids_key(REGION), worker.id)
    pipe.execute()


def heartbeat(client: redis.Redis, fleet: list[Worker], seq: int) -> None:
    pipe = client.pipeline()
    for worker in fleet:
        load = records.encode_load(Load(worker=worker.id, boot="b1", seq=seq, waiting=0, running=0, backlog=0.0))
        pipe.set(records.load_key(REGION, worker.id), load, px=int(records.LEASE_SECONDS * 1e3))
        pipe.publish(records.changes_channel(REGION, worker.id), records.LOAD + load)
    pipe.execute()


class Heart(threading.Thread):
    """Keeps the leases while the rounds run."""

    def __init__(self, client: redis.Redis, fleet: list[Worker]) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._fleet = fleet
        self._stopped = threading.Event()

    def run(self) -> None:
        seq = 1
        while not self._stopped.is_set():
            heartbeat(self._client, self._fleet, seq)
            seq += 1
            self._stopped.wait(HEARTBEAT_SECONDS)

    def stop(self) -> None:
        self._stopped.set()
        self.join()


# The proxies.

GATEWAY = f"""
id: bench
region: {REGION}
listen: {{host: 127.0.0.1, port: 0}}
control: {{host: 127.0.0.1, port: 0}}
redis: %s
routes:
  - match: {{model: "{MODEL}"}}
    policy: cheapest_in_deadline
    deadline: {{total_ms: 2000}}
"""

NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  upstream workers {{ {servers} keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{ proxy_pass http://workers; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


def pinned(core: int) -> list[str]:
    """Run on one core; with fewer than two there is nothing to choose."""
    taskset = shutil.which("taskset")
    return [taskset, "-c", str(core)] if taskset and (os.cpu_count() or 1) > 1 else []


def start_stub(folder: Path) -> tuple[Child, list[int]]:
    command = [*pinned(0), sys.executable, "-m", "loadtests.live.bench_edge", "--stub"]
    child = Child("stub", command, folder)
    return child, [int(port) for port in child.wait_ready(20.0).split()[1:]]


def start_gateway(folder: Path, url: str) -> tuple[Child, int]:
    path = folder / "gateway.yaml"
    path.write_text(GATEWAY % url)
    command = [*pinned(1), *gateway_command(), "--config", str(path)]
    child = Child("gateway", command, folder)
    ready = child.wait_ready(30.0)
    found = re.search(r"http://[^ ]+:(\d+)", ready)
    if found is None:
        raise ChildError(f"the gateway did not say its port: {ready}")
    return child, int(found[1])


def gateway_command() -> list[str]:
    return [str(Path(sys.executable).with_name("isochrone")), "gateway"]


def start_nginx(folder: Path, ports: list[int]) -> tuple[Child, int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    servers = " ".join(f"server 127.0.0.1:{upstream};" for upstream in ports)
    path = folder / "nginx.conf"
    path.write_text(NGINX.format(folder=folder, servers=servers, port=port))
    child = Child("nginx", [*pinned(1), nginx_path() or "nginx", "-c", str(path)], folder)
    wait_for(port)
    return child, port


def nginx_path() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def wait_for(port: int) -> None:
    until = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def wait_until_routed(port: int) -> None:
    """Until the gateway has read its fleet: the model is served."""
    until = time.monotonic() + 10
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("POST", "/v1/chat/completions", BODY, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        if answer.status == 200:
            return
        if time.monotonic() > until:
            raise ChildError(f"the gateway does not route: {answer.status} {said[:200]!r}")
        time.sleep(0.1)


# Measuring.


class Round(NamedTuple):
    """One round of one proxy."""

    microseconds: float
    """CPU per request."""
    per_second: float


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children that live."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(cpu_seconds(int(child)) for child in children)


def measure(pid: int, port: int, folder: Path, seconds: float) -> Round:
    before, started = cpu_seconds(pid), time.monotonic()
    answered, failed = load(port, folder, seconds)
    took = time.monotonic() - started
    if failed or not answered:
        raise ChildError(f"{failed} of {answered} requests to port {port} failed")
    return Round((cpu_seconds(pid) - before) / answered * 1e6, answered / took)


def load(port: int, folder: Path, seconds: float) -> tuple[int, int]:
    """(answered, failed) of a closed loop over 64 connections."""
    wrk = shutil.which("wrk")
    if wrk:
        script = folder / "post.lua"
        script.write_text(
            f'wrk.method = "POST"\nwrk.path = "/v1/chat/completions"\nwrk.body = [==[{BODY.decode()}]==]\n'
            'wrk.headers["Content-Type"] = "application/json"\n'
        )
        command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}s", "-s", str(script), f"http://127.0.0.1:{port}"]
    else:
        command = [sys.executable, "-m", "loadtests.live.bench_edge", "--send", str(port), "--seconds", str(seconds)]
    said = subprocess.run(
        [*pinned(0), *command], check=True, capture_output=True, text=True, timeout=seconds + 30
    ).stdout
    answered = re.search(r"(\d+) requests in", said)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    if answered is None:
        raise ChildError(f"the load generator said: {said[-300:]}")
    return int(answered[1]), (int(failed[1]) if failed else 0) + (sum(map(int, errors.groups())) if errors else 0)


def compare(folder: Path, rounds: int, seconds: float) -> dict[str, list[Round]]:
    children: list[Child] = []
    heart = None
    try:
        stub, ports = start_stub(folder)
        children.append(stub)
        server, url = start_redis(folder)
        children.append(server)
        client = redis.Redis.from_url(url)
        fleet = workers(ports)
        register(client, fleet)
        heart = Heart(client, fleet)
        heart.start()
        gateway, gateway_port = start_gateway(folder, url)
        children.append(gateway)
        nginx, nginx_port = start_nginx(folder, ports)
        children.append(nginx)
        wait_until_routed(gateway_port)
        proxies = {"isochrone": (gateway.pid, gateway_port), "nginx": (nginx.pid, nginx_port)}
        found: dict[str, list[Round]] = {name: [] for name in proxies}
        for pid, port in proxies.values():
            measure(pid, port, folder, 1.0)  # connections made, caches warm
        for turn in range(rounds):
            for name, (pid, port) in proxies.items():
                found[name].append(measure(pid, port, folder, seconds))
                line = found[name][-1]
                print(
                    f"round {turn + 1} {name:10} {line.microseconds:6.1f} us  {line.per_second:8.0f}/s", file=sys.stderr
                )
        return found
    finally:
        if heart is not None:
            heart.stop()
        end_all(children)


def summary(found: dict[str, list[Round]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for name, rounds in found.items():
        times = [turn.microseconds for turn in rounds]
        result[f"{name}_us"] = round(statistics.median(times), 2)
        result[f"{name}_us_min_max"] = [round(min(times), 2), round(max(times), 2)]
        result[f"{name}_per_second"] = round(statistics.median(turn.per_second for turn in rounds))
    ratios = [ours.microseconds / theirs.microseconds for ours, theirs in zip(*found.values(), strict=True)]
    result["ratio_nginx"] = round(statistics.median(ratios), 3)
    result["ratio_nginx_min_max"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return result | {
        "target": TARGET,
        "nodes": NODES,
        "body_bytes": len(BODY),
        "connections": CONNECTIONS,
        "rounds": len(ratios),
        "load": "wrk" if shutil.which("wrk") else "bundled",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU per proxied request, beside nginx.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--stub", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--send", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stub:
        uvloop.run(serve_stub())
        return 0
    if options.send:
        uvloop.run(send(options.send, options.seconds))
        return 0
    if nginx_path() is None:
        print("bench-edge compares with nginx, which is not installed: apt-get install nginx-light", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="bench-edge-") as folder:
        result = summary(compare(Path(folder), options.rounds, options.seconds))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0 if float(str(result["ratio_nginx"])) <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
