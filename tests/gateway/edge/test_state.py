"""The state table is whole."""

from gateway.edge.state import TRANSITIONS, State


def test_the_table_names_every_state_and_ends_in_done() -> None:
    assert set(TRANSITIONS) == set(State)
    assert TRANSITIONS[State.DONE] == frozenset()
    assert all(State.DONE in following for state, following in TRANSITIONS.items() if state is not State.DONE)
