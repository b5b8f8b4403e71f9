import grpc
import pytest

from policies.reason import TABLE, Reason
from workers.proto import refusals
from workers.proto.messages import ErrorInfo, RetryInfo, Status


def told(reason, message="Why.", param=None, wait=None):
    """The plain trailers of a refusal, its google.rpc.Status, and the details in that, by type."""
    trailers = dict(refusals.trailers(reason, message, param, wait))
    status = Status.FromString(trailers.pop(refusals.DETAILS))
    details = {}
    for packed in status.details:
        kind = {"google.rpc.ErrorInfo": ErrorInfo, "google.rpc.RetryInfo": RetryInfo}[packed.TypeName()]()
        assert packed.Unpack(kind)
        details[type(kind).DESCRIPTOR.name] = kind
    return trailers, status, details


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_status_and_carries_its_code(reason):
    _, status, details = told(reason)
    assert refusals.status(reason).value[0] == status.code == TABLE[reason].grpc
    assert refusals.status(reason) is not grpc.StatusCode.OK
    assert (details["ErrorInfo"].reason, details["ErrorInfo"].domain) == (TABLE[reason].code, "isochrone")


def test_the_field_at_fault_is_named():
    _, status, details = told(Reason.BAD_REQUEST, "input 'x' is missing", "inputs")
    assert status.message == "input 'x' is missing"
    assert details["ErrorInfo"].metadata == {"param": "inputs"}


def test_a_wait_is_named_only_where_waiting_helps():
    trailers, _, details = told(Reason.OVERLOADED, wait=2.3)
    assert trailers == {"x-should-retry": "true", "retry-after": "3"}
    assert details["RetryInfo"].retry_delay.seconds == 3
    trailers, _, details = told(Reason.BAD_REQUEST, wait=2.3)
    assert trailers == {"x-should-retry": "false"}
    assert "RetryInfo" not in details
    assert "retry-after" not in told(Reason.OVERLOADED)[0]


def test_a_long_message_is_cut():
    assert len(told(Reason.BAD_REQUEST, "x" * 9999)[1].message) == refusals.MAX_MESSAGE
