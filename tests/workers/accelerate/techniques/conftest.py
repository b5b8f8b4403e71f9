"""Jobs that start from a torch module; their tests are skipped where torch is not installed."""

import pytest

from tests.workers.accelerate.conftest import CLASSES, FEATURES, HIDDEN, weights
from workers.accelerate import data, machine, opening, pipeline, spec

MADE = "tests.workers.accelerate.techniques.conftest:network"
STUDENT = "tests.workers.accelerate.techniques.conftest:student"


def network(hidden=HIDDEN):
    """The small classifier's twin in torch."""
    import torch

    up, down = weights(hidden)
    first, last = torch.nn.Linear(FEATURES, hidden), torch.nn.Linear(hidden, CLASSES)
    with torch.no_grad():
        first.weight.copy_(torch.from_numpy(up.T.copy()))
        last.weight.copy_(torch.from_numpy(down.T.copy()))
        first.bias.zero_()
        last.bias.zero_()

    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = first, last

        def forward(self, features):
            return self.last(self.first(features).relu()).softmax(-1)

    return Small()


def student():
    import torch

    torch.manual_seed(0)
    return network(hidden=16)


@pytest.fixture
def module_job(folder):
    """Of the torch module, with data to train on that have no labels."""
    for name in ("torch", "onnxscript", "torch_pruning"):
        pytest.importorskip(name)
    place = folder / "accelerate.yaml"
    place.write_text(
        place.read_text()
        + f"student: {STUDENT}\ntraining: {{file: calibration.npz, epochs: 30, learning_rate: 0.01}}\n"
    )
    return pipeline.prepared(MADE, spec.read(place), place, folder, machine.found())


def answers_of(built, job):
    """Classes by a variant and by the reference, on the held-out items."""
    feeds = data.cycled(job.held.feeds, 300)
    engines = [
        opening.opened(path, engine, build, tokenizer=None, context=1, max_batch=4, device="cpu")
        for path, engine, build in (built, (job.source.graph, "onnx", built.build.__class__()))
    ]
    return [engine.run(feeds)["probabilities"].argmax(axis=1) for engine in engines]
