import pytest

from policies.reason import Reason
from tests.workers.fakes import embedding_entry, tensor_entry, text_entry
from workers.catalog import EMBEDDING, TENSOR, TEXT, Catalog


@pytest.fixture
def catalog():
    return Catalog([tensor_entry(variant="int8"), tensor_entry(variant="fp32"), text_entry(), embedding_entry()])


def test_the_first_variant_is_the_default(catalog):
    assert catalog.find("double", "", TENSOR).endpoint.variant == "int8"


def test_a_named_variant_is_found(catalog):
    assert catalog.find("double", "fp32", TENSOR).lane == "double:fp32"
    assert len(catalog.entries()) == 4


@pytest.mark.parametrize(("model", "variant"), [("other", ""), ("double", "bf16")])
def test_what_is_not_served_is_not_found_unexecuted(catalog, model, variant):
    refused = catalog.find(model, variant, TENSOR)
    assert (refused.reason, refused.executed, refused.param) == (Reason.MODEL_NOT_FOUND, False, "model")


def test_a_model_of_another_kind_says_where_it_is_served(catalog):
    refused = catalog.find("double", "", TEXT)
    assert refused.reason is Reason.BAD_REQUEST
    assert "/v2/models/" in refused.message
    assert "/v1/embeddings" in catalog.find("lengths", "", TEXT).message
    assert "/v1/chat/completions" in catalog.find("echo", "", EMBEDDING).message
