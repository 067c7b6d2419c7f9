"""The time that a measurement in phases will still take, on a clock that tests turn."""

import math

import pytest

from advx_jax.runs.eta import Estimate, Phase

# AutoAttack's runs as they are done: 25 steps a segment; a gradient costs about three passes.
PHASES = [
    Phase("apgd-ce", 4, 75),
    *[Phase("apgd-t", 4, 75)] * 9,
    *[Phase("fab-t", 4, 100)] * 9,
    Phase("square", 200, 25),
]
COMPILE = 12.0


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def estimates(n, goes_on, per_pass=0.0015, rows=16, true_costs=None, freezes=False):
    """Pairs of the time and the time left that was told then, for a whole run; and the time at its end.

    `goes_on` tells how many of n go on after a phase.
    """
    clock = Clock()
    estimate = Estimate(PHASES, lambda n: min(n, rows), 1, clock)
    estimate.wait([n] + [0] * (len(PHASES) - 1))
    told, compiled = [], set()
    for position, phase in enumerate(PHASES):
        left, n_on = n, goes_on(position, n)
        chunk_rows = min(rows, max(n, 1))
        estimate.begin(position, n, chunk_rows)
        while left:
            count = min(chunk_rows, left)
            if (phase.kind, chunk_rows) not in compiled:
                clock.now += COMPILE
                compiled.add((phase.kind, chunk_rows))
            for made in range(phase.segments):
                clock.now += (true_costs or {}).get(phase.kind, phase.cost) * per_pass * chunk_rows
                estimate.segment()
                told.append((clock.now, estimate.seconds_left()))
                if freezes and n_on == 0 and made == 1:
                    estimate.skip()
                    break
            left -= count
            on = min(count, max(0, n_on - (n - left - count)))
            estimate.go_on(position, count, on)
            told.append((clock.now, estimate.seconds_left()))
        n = n_on
    return told, clock.now


def survivors(position, n):
    """As measured of robust networks: most of what breaks breaks first."""
    return round(n * (0.8 if position == 0 else 0.95 if position == 1 else 1.0))


@pytest.mark.parametrize("n", [8, 16, 64, 1000])
@pytest.mark.parametrize("true_costs", [None, {"apgd-ce": 90, "apgd-t": 80, "fab-t": 70, "square": 40}])
def test_after_a_minute_it_is_right_to_a_factor_of_two(n, true_costs):
    told, end = estimates(n, survivors, true_costs=true_costs)
    after = [(time, left) for time, left in told if time >= 60 and end - time > 10]
    assert after
    for time, left in after:
        assert (end - time) / 2 <= left <= (end - time) * 2


@pytest.mark.parametrize("first", [0.2, 0.5, 1.0])
def test_it_learns_how_many_images_go_on(first):
    told, end = estimates(256, lambda position, n: round(n * first) if position == 0 else n)
    # From the first quarter of the first attack on.
    for time, left in told:
        if time > 60 and end - time > 10:
            assert (end - time) / 2 <= left <= (end - time) * 2


def test_nothing_is_told_before_a_segment_was_timed():
    told, _ = estimates(16, survivors)
    assert told[0][1] is None
    assert told[1][1] is not None


def test_compilation_is_no_speed():
    told, end = estimates(64, survivors)
    time, left = told[1]
    # Twelve seconds of compilation before a segment of two would make it seven times too long.
    assert left < 2 * (end - time)


def test_what_broke_early_is_not_waited_for():
    told, end = estimates(64, lambda position, n: 0, freezes=True)
    assert told[-1] == (end, 0.0)


def test_an_earlier_call_tells_how_many_go_on():
    clock = Clock()
    left = []
    for n_on in (10, 90):
        estimate = Estimate(PHASES, lambda n: min(n, 16), 1, clock)
        estimate.learn(0, 100, n_on)
        estimate.wait([64] + [0] * (len(PHASES) - 1))
        estimate.begin(0, 64, 16)
        for _ in range(2):
            clock.now += 1
            estimate.segment()
        left.append(estimate.seconds_left())
    assert left[1] > 4 * left[0]
    assert not math.isnan(left[0])
