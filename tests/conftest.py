"""What several folders share: the embedded fleet, started once through the demo's own code."""

import ctypes

import pytest

from loadtests import scenario
from loadtests.embedded import ANY_PORTS, Embedded


@pytest.fixture(scope="session")
def fleet():
    """Three regions, six real workers behind the WAN, and gateways in europe-west4 and us-central1.

    Tests may use it as any client could, and must leave it as they found it."""
    with Embedded(scenario.load()) as fleet:
        fleet.start([ANY_PORTS, ANY_PORTS])
        yield fleet


@pytest.fixture(scope="session")
def gateway(fleet):
    """The gateway in europe-west4."""
    return fleet.gateways[0]


@pytest.fixture(autouse=True)
def denormals():
    """ONNX Runtime flushes denormals to zero in the thread that runs it; where that is the tests' own, hypothesis draws
    no floats from then on: put the thread's arithmetic back."""
    yield
    ctypes.CDLL("libm.so.6").fesetenv(ctypes.c_void_p(-1))  # FE_DFL_ENV
