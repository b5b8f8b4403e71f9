"""transformers serve: health from /health (503 when its batching has died), no page of its load.

As of transformers 5.23 (cli/serve.py). Offline its /v1/models fails: name the models. `--proxy` counts the load.
"""

from __future__ import annotations

from workers.attach.openai import OpenAI


class Transformers(OpenAI):
    """`--engine transformers`."""

    health_path = "/health"
