"""Text generation: the same chat with a tight and with a loose deadline, streamed; where each went and what it cost.

Model: tinychat, of this project, Apache-2.0: two million parameters that know a few capitals and sums and little else.
"""

import sys
import time

from openai import OpenAI

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
QUESTION = "What is the capital of France?"

answered = []
with OpenAI(base_url=f"{URL}/v1", api_key="unused") as client:
    client.models.list()  # a connection to start with
    for deadline_ms in (100, 2000):
        began, first, pieces = time.monotonic(), None, []
        raw = client.chat.completions.with_raw_response.create(
            model="tinychat",
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=24,
            temperature=0,
            stream=True,
            extra_headers={"x-deadline-ms": str(deadline_ms), "x-route-explain": "1"},
        )
        for chunk in raw.parse():
            if chunk.choices and chunk.choices[0].delta.content:
                first = first or time.monotonic()
                pieces.append(chunk.choices[0].delta.content)
        took = time.monotonic() - began
        answered.append("".join(pieces))
        print(f"deadline {deadline_ms} ms: {''.join(pieces)!r}")
        print(
            f"  first token after {((first or began) - began) * 1e3:.0f} ms, all after {took * 1e3:.0f} ms, "
            f"by {raw.headers['x-route-node']} for {float(raw.headers['x-route-cost-usd']):.2g} dollars"
        )
sys.exit(not all("Paris" in text for text in answered))
