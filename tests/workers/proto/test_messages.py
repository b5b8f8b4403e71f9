"""Our messages against those of NVIDIA's client, in one process: the same bytes, and no quarrel over names."""

import subprocess
import sys

import pytest
from google.protobuf.descriptor import FieldDescriptor
from tritonclient.grpc import service_pb2

from workers.proto import messages

OURS = messages.POOL.FindFileByName("inference.proto").message_types_by_name


def fields(descriptor):
    """What decides the bytes of a message: per field its number, type, repetition and, of a message, its own."""
    return {
        field.name: (field.number, field.type, field.is_repeated, field.message_type and fields(field.message_type))
        for field in descriptor.fields
        if field.type != FieldDescriptor.TYPE_GROUP
    }


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_message_is_tritons_on_the_wire(name):
    theirs = fields(service_pb2.DESCRIPTOR.message_types_by_name[name])
    ours = fields(OURS[name])
    assert {field: theirs.get(field) for field in ours} == ours


def test_the_service_is_tritons_by_name_and_methods():
    service = messages.POOL.FindServiceByName(messages.INFERENCE)
    theirs = service_pb2._GRPCINFERENCESERVICE.methods_by_name if hasattr(service_pb2, "_GRPCINFERENCESERVICE") else (
        service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    )  # fmt: skip
    for method in service.methods:
        assert theirs[method.name].input_type.full_name == method.input_type.full_name
        assert theirs[method.name].output_type.full_name == method.output_type.full_name


def test_their_bytes_are_our_message():
    theirs = service_pb2.ModelInferRequest(model_name="digits", raw_input_contents=[b"\x00\x01"])
    theirs.inputs.add(name="pixels", datatype="FP32", shape=[-1, 64]).contents.fp32_contents.extend([0.5, 1.0])
    theirs.parameters["priority"].int64_param = 3
    ours = messages.ModelInferRequest.FromString(theirs.SerializeToString())
    assert service_pb2.ModelInferRequest.FromString(ours.SerializeToString()) == theirs
    assert ours.inputs[0].contents.fp32_contents == [0.5, 1.0]


@pytest.mark.parametrize("first", ["workers.proto.messages", "tritonclient.grpc"])
def test_either_may_be_imported_first(first):
    program = f"import {first}; import tritonclient.grpc; import workers.proto.messages"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_bytes_that_are_no_message_are_told_apart():
    with pytest.raises(messages.DecodeError):
        messages.ModelInferRequest.FromString(b"\xff\xff\xff")
