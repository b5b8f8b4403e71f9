import io

from rich.console import Console

from loadtests import scenario, showcase
from loadtests.demo import Standing, Wanted, faults, invitation, verdict, workers_table
from loadtests.embedded import Gateway, Ports
from loadtests.report import Summary

DEMO = scenario.load()


def summary(in_deadline: int, cost: float | None) -> Summary:
    return Summary(requests=10, ok=10, in_deadline=in_deadline, cost_usd=cost, by_node={}, p50_s=0.1, p99_s=0.2)


def test_further_gateways_listen_two_ports_higher():
    assert Wanted(scenario=DEMO, gateways=2).ports() == [Ports(8080, 8081), Ports(8082, 8083)]
    assert Wanted(scenario=DEMO, gateways=2, port=0, control_port=0).ports() == [Ports(0, 0), Ports(0, 0)]


def test_ports_that_cannot_be_had_are_named():
    assert Wanted(scenario=DEMO, gateways=3).impossible_ports() == ""
    assert Wanted(scenario=DEMO, gateways=3, port=0, control_port=0).impossible_ports() == ""
    assert "port 9 would be used twice" in Wanted(scenario=DEMO, port=9, control_port=9).impossible_ports()
    assert "port 9 would be used twice" in Wanted(scenario=DEMO, gateways=2, port=9, control_port=7).impossible_ports()
    assert "need port 65537" in Wanted(scenario=DEMO, gateways=2, port=65535).impossible_ports()


def test_invitation_names_every_gateway_and_has_a_curl_line():
    gateways = [Gateway(None, "eu", "http://127.0.0.1:1", "http://127.0.0.1:2"), Gateway(None, "us", "http://h:3", "")]
    text = invitation(gateways)
    assert "base_url = http://127.0.0.1:1/v1 " in text
    assert "base_url = http://h:3/v1 " in text
    assert "curl -i http://127.0.0.1:1/v1/chat/completions" in text


def test_verdict_says_how_it_came_out():
    runs = {showcase.OURS: summary(10, 2e-6), "nearest": summary(10, 8e-6), "lowest_cost": summary(4, 1e-6)}
    assert "missed 0 deadlines where lowest_cost missed 6, and cost 25% of what nearest cost" in verdict(runs)
    unknown = runs | {"nearest": summary(10, None)}
    assert verdict(unknown).endswith("missed 0 deadlines where lowest_cost missed 6; what they cost is not known.")


def row(worker: str, model: str, rtt: float | None) -> dict[str, object]:
    """As /admin/nodes gives it, as far as the table reads it."""
    seen = {"rtt_ms": rtt, "wait_ms": 0.0, "waiting": None, "running": 1, "in_flight": 2}
    return {
        "worker": worker,
        "model": model,
        "variant": "int8",
        "region": "eu",
        "state": "serving",
        "price": 1.5,
        **seen,
    }


def shown(rows: list[dict[str, object]], *running: Standing) -> list[str]:
    """The table's lines, without its frame."""
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(workers_table("eu", rows, DEMO.workers, running))
    return [line for line in console.export_text().splitlines() if line.strip()][2:]  # without title and heads


def test_table_has_a_row_per_worker_the_nearest_first_the_unmeasured_last():
    lines = shown([row("new", "m1", None), row("far", "m1", 80.25), row("near", "m2", 1.0), row("near", "m1", 1.0)])
    lines = [line for line in lines if "serving" in line]
    assert [line.split()[0] for line in lines] == ["near", "far", "new"]
    assert "m1 m2 (int8)" in lines[0]
    assert "80.2 ms" in lines[1]
    assert " - " in lines[2]


def test_eighty_columns_show_whom_to_kill():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(workers_table("eu", [row("eu-a", "m1", 1.0)], DEMO.workers, [Standing("eu-a", 12345, "")]))
    line = next(line for line in console.export_text().splitlines() if line.strip().startswith("eu-a"))
    assert line.split()[:3] == ["eu-a", "12345", "serving"]


def test_a_dead_worker_keeps_its_row_and_says_how_it_ended():
    running = (Standing("eu-a", 71, ""), Standing("eu-b", 72, "ended by SIGKILL"), Standing("us-a", 73, ""))
    lines = {line.split()[0]: line for line in shown([row("eu-a", "m1", 1.0), row("eu-b", "m1", 1.0)], *running)}
    assert "serving" in lines["eu-a"]
    assert " 71 " in lines["eu-a"]
    assert "dead: SIGKILL" in lines["eu-b"]  # the gateway has not noticed yet
    assert "serving" not in lines["eu-b"]
    assert "unknown here" in lines["us-a"]  # it runs and is not registered
    gone = next(line for line in shown([row("eu-a", "m1", 1.0)], *running) if "eu-b" in line)
    assert "dead: SIGKILL" in gone
    assert "europe-west4" in gone


def test_the_hint_names_processes_that_may_be_killed():
    text = faults([Standing("redis", 5, ""), Standing("asia-b", 6, "")])
    assert "kill -9 6   (asia-b)" in text
    assert "kill -9 5   (redis)" in text
    assert faults([]).startswith("Ctrl-C ends everything.")
