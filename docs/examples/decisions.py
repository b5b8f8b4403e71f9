"""Decisions about a text: a predicate, a choice and a score about one message, on both decision surfaces.

The model is an embedding model (all-MiniLM-L6-v2, Apache-2.0): it compares the message with each option. That is fast
and orders well, but its probabilities are uncalibrated; `fraud_scoring.py` asks a classifier whose are.
"""

import sys

from openai import OpenAI

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
MESSAGE = "I was charged twice for my order and want one of the charges refunded today."
TEAMS = {
    "billing": "payments, charges, invoices and refunds",
    "shipping": "delivery and lost parcels",
    "technical": "errors, crashes and signing in",
}
TONES = ["praise", "a question", "a complaint"]

with OpenAI(base_url=f"{URL}/v1", api_key="unused") as client:
    decision = client.decisions.create(
        model="minilm",
        input=MESSAGE,
        questions=[
            {"type": "predicate", "name": "refund", "instructions": "The customer wants a refund of a charge."},
            {
                "type": "choice",
                "name": "team",
                "instructions": "Which team should answer?",
                "choices": [{"value": name, "description": what} for name, what in TEAMS.items()],
            },
            {"type": "score", "name": "tone", "instructions": "How upset?", "levels": [{"label": t} for t in TONES]},
        ],
        extra_headers={"x-deadline-ms": "500"},
    )
    refund, team, tone = decision.answers
    print(f"refund wanted: {refund.probability:.0%}; team: {team.choice} (confidence {team.confidence:.2f})")
    print(f"tone: {tone.score:.1f}, where 0 is praise and 2 a complaint")
    same = client.post(
        "/systemone",
        body={
            "model": "minilm",
            "state": MESSAGE,
            "questions": {
                "team": {"type": "choice", "instructions": "Which team should answer?", "criteria": TEAMS},
                "refund": {
                    "type": "noul",
                    "criteria": {"true": "wants a refund of a charge", "false": "asks about a delivery"},
                },
            },
        },
        cast_to=dict,
    )
print(f"System One says {same['answers']['team']['choice']}, refund {same['answers']['refund']['noul']:.0%}")
sys.exit(not team.choice == same["answers"]["team"]["choice"] == "billing")
