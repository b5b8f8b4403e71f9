"""What needs a GPU says so; the rest is measured by `make bench-gpu` and on the machines that have one."""

from workers.accelerate.techniques import fp8


def test_without_the_hardware_it_says_which(job):
    for capability in (None, (8, 0)):
        why = fp8.available(job._replace(machine=job.machine._replace(capability=capability)))
        assert why is not None
        assert why.startswith("no CUDA device of capability 8.9")
