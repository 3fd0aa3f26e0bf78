"""What runs the fuzz: a property that fails says how to run just that again, and how many examples were tried."""

from __future__ import annotations

import re

import pytest
from explorer import TURN, Explorer
from hypothesis import strategies as st


@pytest.fixture
def explorer():
    """explorer(): what goes on for no time, so for one turn; and what it told."""

    def make(turn=None, seconds=1e-9):
        told = []
        return Explorer(seconds, turn, "pytest this", False, told.append), told

    return make


def test_a_failure_names_its_turn_which_fails_again_in_the_same_way(explorer):
    seen = []

    def check(x):
        seen.append(x)
        assert x < 2**49

    def failure(turn=None):
        seen.clear()
        run, told = explorer(turn, seconds=600)
        with pytest.raises(AssertionError) as failed:
            run(check, 10, x=st.integers(0, 2**50))
        assert told[-1] >= 1
        (note,) = [note for note in failed.value.__notes__ if note.startswith("Again: ")]
        return int(re.fullmatch(r"Again: pytest this --fuzz-turn (\d+)", note)[1]), [*seen]

    turn, tried = failure()
    again, same = failure(turn)
    assert again == turn
    assert same == tried[-len(same) :], "the turns before it did not fail"


def test_it_counts_and_goes_on_with_others(explorer):
    seen = []
    run, told = explorer()
    for _ in range(2):
        run(lambda x: seen.append(x), 10, x=st.integers(0, 2**50))
    assert told == [TURN, TURN]
    assert len(set(seen)) > TURN


def test_ci_tries_the_same_every_time(explorer):
    def tried():
        seen = []
        run, told = explorer(seconds=0.0)
        run(lambda x: seen.append(x), 10, x=st.integers(0, 2**50))
        assert not told
        return seen

    found = tried()
    assert len(found) == 10
    assert tried() == found
