"""Fraud scoring: one decision per transaction, with the official client, and what it would have cost to be wrong.

Real transactions are nobody's to give away: the rows are UCI Breast Cancer Wisconsin (Diagnostic), CC BY 4.0, held out
from training. The rare class, malignant, plays the fraud.
"""

import json
import sys
from pathlib import Path

import numpy as np
from openai import OpenAI

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
FOLDER = Path(__file__).parents[2] / "workers/models/fraud"
MISSED, BOTHERED = 100.0, 5.0
"""What a fraud let through costs, and a customer stopped for nothing: they set the threshold, because the model's
probabilities were measured to be true to half a percent (`calibration_error` in its manifest)."""
THRESHOLD = BOTHERED / (MISSED + BOTHERED)

samples = np.load(FOLDER / "samples.npz")
names = json.loads((FOLDER / "fraud.manifest.json").read_text())["features"]
right, cost = 0, 0.0
with OpenAI(base_url=f"{URL}/v1", api_key="unused") as client:
    for row, bad in zip(samples["features"].tolist(), samples["labels"].tolist(), strict=True):
        decision = client.decisions.create(
            model="fraud",
            input=json.dumps(dict(zip(names, row, strict=True))),
            questions=[{"type": "predicate", "name": "fraud", "instructions": "It is malignant."}],
            extra_headers={"x-deadline-ms": "250"},
        )
        probability = decision.answers[0].probability
        stopped = probability > THRESHOLD
        right += stopped == bool(bad)
        cost += MISSED * (bad and not stopped) + BOTHERED * (stopped and not bad)
        print(f"{probability:7.2%}  {'stop' if stopped else 'pass'}  {'fraud' if bad else ''}")
print(f"{right} of {len(samples['labels'])} right above a threshold of {THRESHOLD:.1%}; being wrong cost {cost:.0f}")
sys.exit(right < 17)
