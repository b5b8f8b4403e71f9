"""langchain-openai through a gateway. It brings 136 MB, so it has an environment of its own: `make test-langchain`."""

import json
import os
import subprocess
from pathlib import Path

import pytest

PYTHON = os.environ.get("LANGCHAIN_PYTHON")
SCRIPT = Path(__file__).with_name("with_langchain.py")


@pytest.mark.skipif(PYTHON is None, reason="run by make test-langchain")
def test_chat_streams_batches_and_embeddings(gateway):
    result = subprocess.run([PYTHON, str(SCRIPT), gateway.url], capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    got = json.loads(result.stdout)
    assert "Paris" in got["answer"]
    assert "Paris" in "".join(got["streamed"])
    assert len(got["streamed"]) > 3
    assert ["Paris" in text for text in (got["asynchronous"], *got["batch"])] == [True] * 3
    assert got["tokens"] > 8
    assert (got["documents"], got["query"]) == ([384, 384], 384)
