"""Memory, measured in a process of its own."""

import msgspec
import numpy as np

from workers.accelerate import probe
from workers.manifest import Build


def test_a_process_tells_its_peak(job, tmp_path):
    np.savez(tmp_path / "feeds.npz", **{name: value[:2] for name, value in job.held.feeds.items()})
    ask = probe.Ask(str(job.source.graph), "onnx", Build(), "", 1, 2, "cpu", str(tmp_path / "feeds.npz"))
    found = probe.asked(ask)
    assert found is not None
    assert 20e6 < found < 1e9
    assert probe.asked(msgspec.structs.replace(ask, file=str(tmp_path / "none.onnx"))) is None


def test_the_peak_is_the_kernels(tmp_path):
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n")
    assert probe.peak(tmp_path / "status") == 2048 * 1024
    assert probe.peak(tmp_path / "none") is None
