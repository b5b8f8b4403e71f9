import math

import msgspec
import numpy as np
import pytest

from loadtests.fit import spearman
from loadtests.sizes import Ranges, fitted, inverted, normal_cdf, shipped, uniform

FITS = ("arxiv-summarization", "azure-code", "azure-conversation", "mooncake-conversation")


def test_all_fits_ship():
    assert tuple(shipped()) == FITS


@pytest.mark.parametrize("name", FITS)
def test_a_fit_says_where_it_is_from_and_how_good_it_is(name):
    fit = fitted(name)
    assert fit.name == name
    assert fit.licence
    assert "github.com/" in fit.source
    assert fit.prompt_tokens.ks < 0.01
    assert fit.output_tokens.ks < 0.01
    assert fit.levels[0] == 0
    assert fit.levels[-1] == 1
    assert list(fit.levels) == sorted(fit.levels)
    for table in (fit.prompt_tokens, fit.output_tokens):
        assert len(table.quantiles) == len(fit.levels)
        assert list(table.quantiles) == sorted(table.quantiles)


@pytest.mark.parametrize("name", FITS)
def test_drawn_sizes_have_the_mean_and_the_tail_of_the_trace(name):
    """The mean of 50,000 draws strays by 1/224 of the deviation, which is two or three times the mean at most."""
    fit = fitted(name)
    for table, drawn in zip(
        (fit.prompt_tokens, fit.output_tokens), fit.draw(np.random.default_rng(1), 50_000), strict=True
    ):
        assert drawn.mean() == pytest.approx(table.mean, rel=0.03)
        assert np.quantile(drawn, 0.9) == pytest.approx(table.quantiles[fit.levels.index(0.9)], rel=0.05)
        assert drawn.min() >= math.floor(table.quantiles[0])
        assert drawn.max() <= math.ceil(table.quantiles[-1])


@pytest.mark.parametrize("rho", [-0.6, 0.0, 0.3, 0.9])
def test_prompt_and_output_keep_their_rank_correlation(rho):
    """A rank correlation of 20,000 pairs has a standard error of at most 0.007."""
    fit = msgspec.structs.replace(fitted("azure-conversation"), rank_correlation=rho)
    assert spearman(*fit.draw(np.random.default_rng(2), 20_000)) == pytest.approx(rho, abs=0.03)


def test_ranges_are_uniform_and_hold_both_ends():
    prompts, outputs = Ranges(prompt_tokens=(1, 3)).draw(np.random.default_rng(1), 300)
    assert set(prompts.tolist()) == {1, 2, 3}
    assert set(outputs.tolist()) == {0}
    assert set(uniform(np.random.default_rng(1), (5, 5), 10).tolist()) == {5}


def test_the_middle_of_ranges():
    ranges = Ranges(prompt_tokens=(10, 30), output_tokens=(0, 4))
    assert ranges.mean() == ranges.median() == (20, 2)


def test_a_range_upside_down_is_refused():
    with pytest.raises(ValueError, match="prompt_tokens: the first of a range is its lower end"):
        Ranges(prompt_tokens=(3, 1))


def test_between_two_quantiles_sizes_are_even_in_the_logarithm():
    assert inverted([0, 1], [10, 1000], np.array([0.0, 0.5, 1.0])).tolist() == [10, 100, 1000]


def test_normal_cdf():
    assert normal_cdf(np.array([0.0, 1.959964, -1.959964])) == pytest.approx([0.5, 0.975, 0.025], abs=1e-6)
