import pytest

torch = pytest.importorskip("torch")

from workers.engines.torch_graph import Graph  # noqa: E402


def test_a_replay_runs_on_what_is_in_the_inputs_now():
    inputs = [torch.ones(2), torch.zeros(2)]
    graph = Graph(lambda a, b: a + b, inputs)
    assert graph.outputs.tolist() == [1, 1]
    inputs[1].copy_(torch.tensor([3.0, 4.0]))
    assert graph.replay().tolist() == [4, 5]
