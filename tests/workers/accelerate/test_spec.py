"""Spec files: what they default to, and what they refuse with the field."""

import pytest

from tests.workers.accelerate.conftest import SPEC
from workers.accelerate import spec


def test_a_short_spec_says_enough(folder):
    read = spec.read(folder / "accelerate.yaml")
    assert (read.model, read.task, read.evaluation.file, read.floor) == ("small", "classification", "held.npz", 0.98)
    assert read.training is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("task: classification", "task: translation", r"\$\.task: unknown task 'translation': choose among classif"),
        ("labels: labels", "label: labels", r"unknown field `label` - at `\$\.evaluation`"),
        ("max_batch: 4", "max_batch: 0", r"at `\$\.max_batch`"),
        ("max_batch: 4", "keep: 1.5", r"at `\$\.keep`"),
        ("model: small", "", r"missing required field `model`"),
        ("model: small", "model: [", r"accelerate\.yaml: .*correct the field"),
    ],
)
def test_a_bad_field_is_named(folder, old, new, message):
    (folder / "accelerate.yaml").write_text(SPEC.replace(old, new))
    with pytest.raises(spec.SpecError, match=message) as caught:
        spec.read(folder / "accelerate.yaml")
    assert "accelerate.yaml" in str(caught.value)


def test_a_missing_spec_says_how_to_give_one(tmp_path):
    with pytest.raises(spec.SpecError, match=r"none\.yaml: cannot be read .*--spec"):
        spec.read(tmp_path / "none.yaml")
