"""Recommendation: retrieval over embeddings, then a rerank of what was retrieved.

A reader's taste is the mean of what they liked; the nearest of the rest are retrieved, and reranked by what they say
they are in the mood for. Model: all-MiniLM-L6-v2, Apache-2.0. The catalogue is this file's own.
"""

import sys

import numpy as np
from openai import OpenAI

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
CATALOGUE = {
    "The Long Orbit": "Science fiction: a crew repairs a failing space station on its way around Saturn.",
    "Red Dust": "Science fiction: the first settlers of Mars, and the dust storm that cuts them off.",
    "A Signal from Europa": "Science fiction: a radio message from under the ice of a moon of Jupiter.",
    "Starship of Fools": "Science fiction: a comedy about the worst crew that ever flew between the stars.",
    "Bread by Hand": "Recipes for sourdough, rye and flat bread, and how to keep a starter alive.",
    "The Slow Kitchen": "Stews and braises for winter evenings, cooked for hours.",
    "Vines of the South": "A guide to growing grapes and making wine in a small garden.",
    "The Duke's Secret": "A governess falls in love with a duke who hides his first marriage.",
    "Letters to Venice": "Two lovers, parted by a war, write to each other for ten years.",
    "The Harbour Murders": "A detective hunts a killer among the fishermen of a northern port.",
    "Silence in Court": "A lawyer defends a man whom every witness saw pull the trigger.",
    "Queues and Clouds": "How computers share work: scheduling, queues and load balancing.",
}
LIKED = ("The Long Orbit", "Red Dust")
MOOD = "something funny"
RETRIEVED = 3

titles = list(CATALOGUE)
with OpenAI(base_url=f"{URL}/v1", api_key="unused") as client:
    # The catalogue is embedded in the background: no deadline, so that it goes to the cheapest node.
    embedded = client.embeddings.create(model="minilm", input=[": ".join(book) for book in CATALOGUE.items()])
    vectors = np.array([item.embedding for item in embedded.data])
    taste = vectors[[titles.index(title) for title in LIKED]].mean(axis=0)
    near = sorted((title for title in titles if title not in LIKED), key=lambda t: -vectors[titles.index(t)] @ taste)
    retrieved = near[:RETRIEVED]
    print(f"liked {', '.join(LIKED)}; near that: {', '.join(retrieved)}")
    # A reader waits for this one.
    ranked = client.post(
        "/rerank",
        body={"model": "minilm", "query": MOOD, "documents": [CATALOGUE[title] for title in retrieved]},
        options={"headers": {"x-deadline-ms": "400"}},
        cast_to=dict,
    )
for result in ranked["results"]:
    print(f"{result['relevance_score']:6.3f}  {retrieved[result['index']]}: {result['document']['text']}")
sys.exit(retrieved[ranked["results"][0]["index"]] != "Starship of Fools")
