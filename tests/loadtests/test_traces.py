import gzip
import itertools

import numpy as np
import pytest

from loadtests import traces
from loadtests.arrivals import Arrivals, Origin, Process
from loadtests.rows import FileError
from loadtests.workload import Class, Demand, TraceRate

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:47.6805900,12,5
"""
MOONCAKE = "\n".join(
    f'{{"timestamp": {ms}, "input_length": {length}, "output_length": 7, "hash_ids": {ids}}}'
    for ms, length, ids in [(0, 900, [0, 1]), (500, 1400, [0, 1, 2]), (1500, 400, [3]), (2000, 1000, [0, 4])]
)
PLAIN = """at,prompt_tokens,output_tokens,region,tenant,kind
0,10,1,west,ann,loose
1,20,2,east,bob,tight
2,30,3,west,ann,tight
3,40,4,east,bob,loose
"""
TIGHT, LOOSE = Class(name="tight", total_s=1), Class(name="loose")
ORIGINS = {"east": Origin(), "west": Origin()}


@pytest.fixture
def written(tmp_path):
    def write(text, name="trace.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def demand(path, **fields):
    return Demand(classes=(TIGHT, LOOSE), trace=path, **fields)


def test_azure_is_sorted_by_time(written):
    trace = traces.load(written(AZURE))
    assert trace.at == pytest.approx([0, 1, 4.314579])
    assert trace.prompt_tokens.tolist() == [374, 12, 396]
    assert trace.output_tokens.tolist() == [44, 5, 109]


def test_mooncake_has_prefixes(written):
    trace = traces.load(written(gzip.compress(MOONCAKE.encode()), "trace.jsonl.gz"))
    assert trace.at == pytest.approx([0, 0.5, 1.5, 2])
    assert [record.prefix for record in trace.records] == [(0, 1), (0, 1, 2), (3,), (0, 4)]
    # The second time around the blocks are others, as equal to each other as the first time.
    assert trace.recorded(4).prefix == (5, 6)
    assert trace.recorded(5).prefix == (5, 6, 7)
    assert trace.recorded(0) is trace.records[0]


def test_lengths_alone_come_as_the_demand_says(written):
    path = written("num_prefill_tokens,num_decode_tokens\n100,1\n200,2\n300,3\n")
    plan = demand(path, arrivals=Arrivals(process=Process.EVEN)).plan(4, 2, seed=5)
    assert [planned.at for planned in plan] == pytest.approx([0.25 * number for number in range(8)])
    assert {(planned.prompt_tokens, planned.output_tokens) for planned in plan} == {(100, 1), (200, 2), (300, 3)}
    steps = np.diff([planned.prompt_tokens for planned in plan])
    assert set(steps.tolist()) == {100, -200}


def test_a_trace_is_replayed_at_the_rate_asked_for(written):
    """Four requests in 4 s, at 100 a second: 1,000 in 10 s, in their order and with their own unevenness."""
    plan = demand(written(MOONCAKE, "t.jsonl")).plan(100, 10, ORIGINS, seed=3)
    assert len(plan) == pytest.approx(1000, abs=2)
    assert all(0 <= planned.at < 10 for planned in plan)
    sizes = [planned.prompt_tokens for planned in plan]
    assert set(itertools.pairwise(sizes)) == {(900, 1400), (1400, 400), (400, 1000), (1000, 900)}
    prefixes = [planned.prefix for planned in plan]
    assert len(set(prefixes)) == len(prefixes)


def test_a_trace_may_keep_its_own_rate(written):
    trace = traces.load(written(MOONCAKE, "t.jsonl"))
    plan = demand(str(trace.path), trace_rate=TraceRate.OWN).plan(100, 2 * trace.seconds, seed=3)
    assert len(plan) == 8
    assert plan[4].at - plan[0].at == pytest.approx(trace.seconds)


def test_another_seed_begins_elsewhere(written):
    path = written(MOONCAKE, "t.jsonl")
    firsts = {demand(path).plan(10, 10, seed=seed)[0].prompt_tokens for seed in range(30)}
    assert firsts == {900, 1400, 400, 1000}


def test_what_a_plain_trace_says_of_region_tenant_and_kind_holds(written):
    for planned in demand(written(PLAIN)).plan(50, 10, ORIGINS, seed=1):
        odd = planned.prompt_tokens in (10, 30)
        assert planned.origin == ("west" if odd else "east")
        assert planned.tenant == ("ann" if odd else "bob")
        assert planned.kind == (LOOSE if planned.prompt_tokens in (10, 40) else TIGHT)


def test_a_trace_without_regions_is_spread_by_the_origins_shares(written):
    plan = demand(written(AZURE)).plan(200, 10, {"east": Origin(3), "west": Origin(1)}, seed=1)
    # Of 2,000 draws a quarter: the deviation is 19.
    assert sum(planned.origin == "west" for planned in plan) == pytest.approx(len(plan) / 4, abs=80)


def test_the_mean_of_a_trace_is_known(written):
    made = demand(written(PLAIN))
    assert made.mean(TIGHT) == made.median(TIGHT) == (25, 2.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (AZURE.replace("ContextTokens", "Context"), r"trace.csv:1: no column ContextTokens"),
        (AZURE.replace(",396,", ",many,"), r"trace.csv:3: ContextTokens: a number was expected, not 'many'"),
        (AZURE.replace("2023-11-16 18:15:50.9951690", "yesterday"), r"trace.csv:3: TIMESTAMP: .*'yesterday'"),
        (PLAIN.replace("\n1,20", "\n-1,20"), r"trace.csv:3: at: -1 is out of range, it must be at least 0"),
        (PLAIN.replace("40,4", "40,-4"), r"trace.csv:5: output_tokens: -4 is out of range"),
        (PLAIN.replace("ann", "", 1), r"trace.csv:2: tenant: a name was expected, not ''"),
        (MOONCAKE.replace("[3]", '"3"'), r"trace.csv:3: hash_ids: a list of whole numbers was expected"),
        (MOONCAKE.replace('"timestamp": 500', '"timestamp": -5'), r"trace.csv:2: timestamp: -5 is out of range"),
        ("", r"trace.csv: the file is empty"),
        ("at,prompt_tokens,output_tokens\n1,1,1\n1,1,1\n", r"all requests have the same time"),
    ],
)
def test_a_bad_trace_is_named_by_file_line_and_field(written, text, message):
    with pytest.raises(FileError, match=message):
        traces.load(written(text))


def test_unknown_names_are_refused(written):
    trace = traces.load(written(PLAIN))
    trace.check("region", {"east", "west"})
    with pytest.raises(FileError, match=r"trace.csv:3: region: no such region 'east'; there are west"):
        trace.check("region", {"west"})
    with pytest.raises(FileError, match=r"trace.csv:2: kind: no such kind 'loose'"):
        trace.check("kind", {"tight"})
