from typing import NamedTuple

import numpy as np
import pytest

from tests.workers.fakes import tensor_entry
from workers import tensors
from workers.engines import TensorSpec
from workers.queue import Refused


class Numbers(NamedTuple):
    """An input whose elements are a list."""

    name: str
    datatype: str
    shape: list
    data: list

    def array(self, dtype):
        return tensors.shaped(np.array(self.data), self.shape, dtype, "data")


X = Numbers("x", "FP32", [2, 2], [1, 2, 3, 4])
K = Numbers("k", "INT64", [2, 1], [7, 8])


def test_feeds_are_arrays_of_the_engines_types():
    feeds = tensors.read_feeds([X, K], tensor_entry())
    assert {name: (value.dtype, value.shape) for name, value in feeds.items()} == {
        "x": (np.float32, (2, 2)),
        "k": (np.int64, (2, 1)),
    }


@pytest.mark.parametrize(
    ("given", "message", "param"),
    [
        ([X], "input 'k' is missing", "inputs"),
        ([X, K, K], "input 'k' is given twice", "inputs[2]"),
        ([K, X._replace(name="z")], "input 'z' is unknown: the model takes x, k", "inputs[1]"),
        ([X._replace(datatype="FP64")], "input 'x' must be FP32, not 'FP64'", "inputs[0]"),
        ([X, K._replace(shape=[1, 1], data=[1])], "inputs have different batches: {'x': 2, 'k': 1}", "inputs"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given, message, param):
    refused = tensors.read_feeds(given, tensor_entry())
    assert isinstance(refused, Refused)
    assert (refused.message, refused.param) == (message, param)


@pytest.mark.parametrize(
    ("datatype", "data", "fits"), [("INT8", [127], True), ("INT8", [128], False), ("UINT8", [-1], False)]
)
def test_small_integers_do_not_wrap_around(datatype, data, fits):
    value = tensors.read_tensor(Numbers("t", datatype, [1], data), TensorSpec("t", datatype, (1,)))
    assert isinstance(value, np.ndarray) if fits else value == f"has a number in `data` outside {datatype}"


def test_bytes_become_an_array_without_a_copy():
    raw = np.array([1.5, np.nan], "<f4").tobytes()
    value = tensors.from_bytes(raw, [1, 2], np.dtype(np.float32), "raw")
    assert (value.shape, value[0, 0]) == ((1, 2), 1.5)
    assert not value.flags.owndata
    said = tensors.from_bytes(raw, [3], np.dtype(np.float32), "raw")
    assert said == "has 8 bytes in `raw`, its shape [3] of FP32 means 12"
    assert tensors.from_bytes(b"\0\1", [2], np.dtype(np.bool_), "raw").tolist() == [False, True]
    assert tensors.from_bytes(b"\0\2", [2], np.dtype(np.bool_), "raw").endswith("neither 0 nor 1")


def test_outputs_are_those_asked_for_or_all():
    entry = tensor_entry()
    assert tensors.chosen([], entry) == ["y", "n"]
    assert tensors.chosen(["n"], entry) == ["n"]
    assert tensors.chosen(["w"], entry).message == "output 'w' is unknown: the model gives y, n"
    assert tensors.datatype("n", entry) == "INT64"


def test_a_large_batch_is_cut_into_jobs_and_joined_again():
    entry = tensor_entry()
    x = np.arange(22, dtype=np.float32).reshape(11, 2)
    jobs = tensors.jobs({"x": x}, entry, 1.0, 2.0)
    assert [job.items for job in jobs] == [4, 4, 3]
    assert {(job.lane, job.arrived, job.deadline) for job in jobs} == {("double:fp32", 1.0, 2.0)}
    assert (tensors.joined("x", [job.work for job in jobs]) == x).all()
