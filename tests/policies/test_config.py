from importlib import resources

import msgspec
import pytest
from ruamel.yaml import YAML

from policies.config import BalancerConfig, PolicyConfig
from policies.router import Policy
from tests.fleets import request, router, worker

PRESETS = sorted(p.name for p in resources.files("policies.presets").iterdir() if p.name.endswith(".yaml"))
KINDS = [kind.__struct_config__.tag for kind in BalancerConfig.__args__]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_and_route(name):
    text = resources.files("policies.presets").joinpath(name).read_text()
    config = msgspec.convert(YAML(typ="safe").load(text), PolicyConfig)
    assert isinstance(config.build(), Policy)
    r = router(worker("a"), preset=config)
    assert r.route(request(policy="preset"), 0.0).node.worker.id == "a"


def test_every_balancer_has_a_preset():
    assert sorted(f"{kind}.yaml" for kind in KINDS) == PRESETS


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"balancer": {"kind": "magic"}}, "`$.balancer.kind`"),
        ({"balancer": {"kind": "p2c", "decay": 1}}, "`$.balancer`"),
        ({"retry": {"max_extra": "two"}}, "`$.retry.max_extra`"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_errors_carry_the_path(value, path):
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.convert(value, PolicyConfig)
    assert path in str(error.value)
