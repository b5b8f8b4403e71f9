"""What another policy would have made of it; and that the simulation of what was is close to what was."""

import io
import json

import msgspec
import pytest
from rich.console import Console

from loadtests.rows import FileError
from loadtests.simulator import replay, whatif
from loadtests.simulator.contenders import CONTENDERS
from tests.loadtests.simulator import logs


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    """The small world's log under the shipped policy, replayed beside two others."""
    paths, _ = logs.write(tmp_path_factory.mktemp("log"), logs.small_world(seconds=40.0, rate=40.0))
    told = []
    made = whatif.compare(replay.history(paths), [whatif.named("nearest"), whatif.named("lowest_cost")], 1, told.append)
    assert told == [whatif.RESIMULATED, "nearest", "lowest_cost"]
    return made


def test_simulated_again_is_what_was(answer):
    """The log came from this very simulator: only what a log does not hold may differ."""
    was, again = answer.logged, answer.policies[whatif.RESIMULATED]
    assert again.requests == was.requests
    assert again.attainment == pytest.approx(was.attainment, abs=0.02)
    assert again.cost_per_1k == pytest.approx(was.cost_per_1k, rel=0.1)
    assert again.total_p50_s == pytest.approx(was.total_p50_s, rel=0.25)
    assert answer.logged_policy == "isochrone"


def test_other_policies_miss_or_cost_more(answer):
    """nearest pays for the dear node at hand; lowest_cost queues on the cheapest, far away."""
    ours, nearest, cheapest = (answer.policies[name] for name in (whatif.RESIMULATED, "nearest", "lowest_cost"))
    assert nearest.cost_per_1k > 1.1 * ours.cost_per_1k
    assert cheapest.attainment < ours.attainment - 0.3
    assert cheapest.regions.keys() == {"us"}


def test_a_sample_is_scaled_up(tmp_path):
    world = logs.small_world(seconds=40.0, rate=40.0)
    paths, simulation = logs.write(tmp_path, world, sample=0.25)
    made = whatif.compare(replay.history(paths), [], 1)
    offered = len(simulation.ledger.calls) * 0.8
    # Binomial: a deviation of about 70 of 1,280; five of them.
    assert made.policies[whatif.RESIMULATED].requests == pytest.approx(offered, abs=350)
    assert made.logged.requests == pytest.approx(offered, abs=350)


def test_a_policy_of_ones_own_is_read(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("balancer: {kind: nearest}\nretry: {max_extra: 0}\n")
    paths, _ = logs.write(tmp_path, logs.small_world(seconds=8.0, rate=20.0))
    made = whatif.compare(replay.history(paths), [whatif.named(str(path)), whatif.named("nearest")], 1)
    mine, preset = made.policies["mine"], made.policies["nearest"]
    assert (mine.cost, mine.attainment) == (preset.cost, preset.attainment)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("balancer: {kind: magic}", r"bad\.yaml: .*magic.*\$\.balancer\.kind"),
        ("blancer: {}", r"bad\.yaml: .*blancer"),
        ("id: gateway", r"bad\.yaml: .*`id`: write one policy, as it stands under `policies:`"),
        ("balancer: [", r"bad\.yaml"),
        (None, r"bad\.yaml: No such file"),
    ],
)
def test_a_bad_policy_is_told_with_file_and_field(tmp_path, text, said):
    path = tmp_path / "bad.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(FileError, match=said):
        whatif.named(str(path))


def test_an_unknown_name_is_told_with_the_known():
    with pytest.raises(FileError, match=r"no policy is called 'magic'.*round_robin"):
        whatif.named("magic")
    assert whatif.named("p2c") == ("p2c", CONTENDERS["p2c"])


def test_a_log_of_policies_of_ones_own_is_simulated_as_the_default_and_says_so(tmp_path):
    paths, _ = logs.write(tmp_path, logs.small_world(seconds=8.0, rate=20.0))
    history = replay.history(paths)
    past = tuple(msgspec.structs.replace(one, policy="fraud") for one in history.past)
    made = whatif.compare(msgspec.structs.replace(history, past=past), [], 1)
    assert made.logged_policy == "isochrone"
    assert any("fraud" in note for note in made.notes)


def test_people_and_programs_get_it(answer):
    text = json.dumps(whatif.encode(answer), allow_nan=False)
    assert set(json.loads(text)["policies"]) == {whatif.RESIMULATED, "nearest", "lowest_cost"}
    shown = io.StringIO()
    Console(file=shown, width=200).print(whatif.table(answer))
    rows = [line for line in shown.getvalue().splitlines() if "%" in line]
    assert len(rows) == 4
    assert "as logged" in rows[0]
    assert "-" in next(row for row in rows if "nearest" in row)  # it saves less than nothing
    assert "points in deadline" in whatif.error(answer)
