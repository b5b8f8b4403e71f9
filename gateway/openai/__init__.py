"""The OpenAI-compatible surface: what clients may ask (headers, bodies) and what they are told (errors, models).

`headers.py` and `requests.py` read, `errors.py` and `models.py` answer; none of them touches a socket.
"""
