"""Image recognition: twenty handwritten digits in one request, over the Open Inference Protocol (REST).

Data: UCI Optical Recognition of Handwritten Digits, CC BY 4.0 (held-out images, in the bundled samples.npz).
"""

import json
import sys
import urllib.request
from pathlib import Path

import numpy as np

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
SAMPLES = Path(__file__).parents[2] / "workers/models/digits/samples.npz"

samples = np.load(SAMPLES)
pixels = samples["pixels"].astype(float)
body = {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": pixels.shape, "data": pixels.ravel().tolist()}]}
request = urllib.request.Request(
    f"{URL}/v2/models/digits/infer",
    json.dumps(body).encode(),
    {"content-type": "application/json", "x-deadline-ms": "500", "x-route-explain": "1"},
)
with urllib.request.urlopen(request, timeout=10) as reply:
    answer, headers = json.load(reply), reply.headers
probabilities = np.reshape(answer["outputs"][0]["data"], answer["outputs"][0]["shape"])
found = probabilities.argmax(axis=1)

for image, digit, sure in zip(samples["pixels"][:2].reshape(-1, 8, 8), found, probabilities.max(axis=1), strict=False):
    print("\n".join("".join(" .:-=+*#@"[value // 2] * 2 for value in row) for row in image))
    print(f"a {digit}, {sure:.0%} sure\n")
right = int((found == samples["labels"]).sum())
where = f"{headers['x-route-node']} ({headers['x-route-variant']}) in {headers['x-route-region']}"
print(f"{right} of {len(found)} right, by {where}")
sys.exit(right < 18)
