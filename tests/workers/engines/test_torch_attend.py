"""Attention in pieces, run by Triton's interpreter on the CPU, against plain attention over the live positions."""

import os

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from workers.engines import torch_attend  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def plain(q, keys, values, positions):
    rows = []
    for row, last in enumerate(positions.tolist()):
        k, v = keys[row, :, : last + 1].double(), values[row, :, : last + 1].double()
        scores = q[row].double() @ k.transpose(1, 2) * q.shape[-1] ** -0.5
        rows.append(scores.softmax(-1) @ v)
    return torch.stack(rows)


@pytest.mark.parametrize("programs", [1, 12, 264], ids=["one piece", "some pieces", "a piece per block"])
@pytest.mark.parametrize("heads", [1, 4])
def test_rows_at_different_positions_see_what_is_live_of_theirs(heads, programs, monkeypatch):
    monkeypatch.setattr(torch_attend, "PROGRAMS", programs)
    torch.manual_seed(heads)
    q = torch.randn(3, 2, heads, 32, dtype=torch.float16)
    keys, values = (torch.randn(3, 2, 200, 32, dtype=torch.float16) for _ in "kv")
    positions = torch.tensor([0, 70, 199])
    found = torch_attend.attend(q, keys, values, positions).double()
    wanted = plain(q, keys, values, positions)
    assert (found - wanted).norm() / wanted.norm() < 2e-3


def test_what_lies_beyond_the_live_positions_is_never_read():
    q = torch.randn(1, 1, 2, 32, dtype=torch.float16)
    keys, values = (torch.randn(1, 1, 128, 32, dtype=torch.float16) for _ in "kv")
    keys[:, :, 10:] = values[:, :, 10:] = float("nan")
    found = torch_attend.attend(q, keys, values, torch.tensor([9]))
    assert torch.isfinite(found).all()
