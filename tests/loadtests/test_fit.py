import numpy as np
import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from loadtests import traces
from loadtests.fit import LEVELS, fit, hit_rate, ks, main, spearman


@pytest.fixture
def recorded(tmp_path):
    """A thousand requests, whose outputs grow with their prompts, at even times."""
    rng = np.random.default_rng(1)
    prompts = rng.integers(10, 5000, 1000)
    path = tmp_path / "trace.csv"
    lines = [f"{number},{prompt},{prompt // 10 + 1}" for number, prompt in enumerate(prompts)]
    path.write_text("\n".join(["at,prompt_tokens,output_tokens", *lines]))
    return path


def test_a_fit_has_the_shape_of_its_trace(recorded):
    shape = fit(traces.load(str(recorded)), "name", "source", "licence")
    assert shape.requests == 1000
    assert shape.levels == LEVELS
    assert shape.rank_correlation == pytest.approx(1)
    assert shape.prompt_tokens.ks < 0.02
    assert shape.gaps is not None
    assert shape.gaps.cv == 0
    assert shape.reuse is None


def test_conversations_are_found_by_their_blocks(tmp_path):
    """Request 2 goes on from 0, with one block more than it repeats, 10 s later; 1 shares but the system prompt."""
    path = tmp_path / "trace.jsonl"
    path.write_text(
        "\n".join(
            f'{{"timestamp": {ms}, "input_length": {512 * len(ids)}, "output_length": 1, "hash_ids": {ids}}}'
            for ms, ids in [(0, [0, 1, 2]), (2000, [0, 3]), (10_000, [0, 1, 4])]
        )
    )
    reuse = fit(traces.load(str(path)), "n", "s", "l").reuse
    assert reuse is not None
    assert reuse.shared_blocks == 1
    assert reuse.follow_ups == pytest.approx(1 / 3, abs=1e-4)
    assert reuse.hit_rate == pytest.approx(3 / 8)
    assert reuse.think_s == 10
    assert set(reuse.grown_blocks) == {1.0}
    assert reuse.first_prompt_tokens.mean == 512 * 2.5


def test_times_coarser_than_the_gaps_say_nothing_of_them(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("at,prompt_tokens,output_tokens\n" + "\n".join(f"{number // 8 * 3},1,1" for number in range(80)))
    assert fit(traces.load(str(path)), "n", "s", "l").gaps is None


def test_hit_rate_counts_beginnings_only():
    assert hit_rate([(1, 2), (1, 2), (1, 3), (9, 2)]) == 3 / 8


def test_spearman_takes_ties_by_their_mean_rank():
    assert spearman(np.array([1, 2, 3]), np.array([10, 20, 30])) == pytest.approx(1)
    assert spearman(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1)
    # Ranks 1.5 1.5 3 against 1 2 3: 0.866.
    assert spearman(np.array([5, 5, 9]), np.array([1, 2, 3])) == pytest.approx(0.8660254)


def test_ks_is_the_largest_distance():
    assert ks(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 4])) == 0
    assert ks(np.array([1, 2]), np.array([3, 4])) == 1
    assert ks(np.array([1, 2, 3, 4]), np.array([3, 3, 4, 4])) == 0.5


def test_the_command_prints_yaml_and_names_a_bad_file(recorded):
    options = ["--name", "n", "--source", "s", "--licence", "l"]
    result = CliRunner().invoke(main, [str(recorded), *options])
    assert result.exit_code == 0
    assert YAML(typ="safe", pure=True).load(result.output)["requests"] == 1000
    recorded.write_text("a,b\n1,2\n")
    result = CliRunner().invoke(main, [str(recorded), *options])
    assert result.exit_code == 1
    assert "trace.csv:1: no column" in result.output
