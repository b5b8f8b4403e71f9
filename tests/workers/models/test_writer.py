"""The graph writer: what it collects runs."""

import numpy as np
import onnx
import onnxruntime as ort

from workers.models.writer import FUSED, Writer, floats, longs


def test_nested_calls_make_the_graph_they_read_like():
    g = Writer()
    doubled = g.add("Mul", ["x", g.scalar("two", 2)], "doubled")
    g.add("Gather", [g.add("Add", [doubled, "x"], "tripled"), "which"], "y", axis=1)
    model = g.model(
        "small", [floats("x", "rows", 3), longs("which", "columns")], [floats("y", "rows", "columns")], 20, 9
    )
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    (y,) = session.run(["y"], {"x": x, "which": np.array([2, 0])})
    np.testing.assert_array_equal(y, 3 * x[:, [2, 0]])
    assert [node.name for node in model.graph.node] == ["doubled", "tripled", "y"]


def test_several_outputs_and_integer_constants():
    g = Writer()
    g.add_many("Split", ["x", g.integers("sizes", [1, 2])], ["a", "b"], axis=0)
    model = g.model("split", [floats("x", 3)], [floats("a", 1), floats("b", 2)], 20, 9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    a, b = session.run(["a", "b"], {"x": np.array([5, 6, 7], np.float32)})
    assert (a.tolist(), b.tolist()) == ([5], [6, 7])


def test_the_runtimes_own_operators_are_declared_only_where_used():
    plain, fused = Writer(), Writer()
    plain.add("Relu", ["x"], "y")
    fused.add("QuickGelu", ["x"], "y", FUSED, alpha=1.0)
    domains = [
        [opset.domain for opset in g.model("m", [floats("x", 1)], [floats("y", 1)], 20, 9).opset_import]
        for g in (plain, fused)
    ]
    assert domains == [[""], ["", FUSED]]
