"""There is nothing to capture without a CUDA device."""

from workers.accelerate.techniques import cuda_graphs


def test_without_a_device_it_says_so(job):
    machine = job.machine._replace(capability=None)
    assert cuda_graphs.available(job._replace(machine=machine)) == "no CUDA device is here: there is nothing to capture"
