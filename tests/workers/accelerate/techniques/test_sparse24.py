"""What needs a GPU says so; the rest is measured by `make bench-gpu` and on the machines that have one."""

import pytest

from workers.accelerate.techniques import sparse24


def test_without_the_hardware_it_says_which(job):
    for capability in (None, (7, 5)):
        why = sparse24.available(job._replace(machine=job.machine._replace(capability=capability)))
        assert why is not None
        assert why.startswith("no CUDA device of capability 8.0")


def test_a_mask_holds_through_training():
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(8, 2)
    apply = sparse24.masked(layer)
    kept = layer.weight != 0
    assert kept.reshape(-1, 4).sum(1).tolist() == [2, 2, 2, 2]
    with torch.no_grad():
        layer.weight += 1
    apply()
    assert torch.equal(layer.weight != 0, kept)
