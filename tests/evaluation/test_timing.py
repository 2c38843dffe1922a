"""How blocks are timed, and what is made of a child's claims.

The workers here are simulated: they answer with the times that a child and a clock would give.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.ahead import Ahead
from kernel_generator.evaluation.claims import check_claims
from kernel_generator.evaluation.clock import Clock
from kernel_generator.evaluation.interleaving import another_round, time_together
from kernel_generator.evaluation.intervals import interval, noise, promotes
from kernel_generator.evaluation.timing import (
    INCUMBENT,
    ITSELF,
    ClaimContradicted,
    Party,
    TimingFailed,
    TimingPlan,
)
from kernel_generator.evaluation.trains import Trains
from kernel_generator.evaluation.wrong import Wrong
from kernel_generator.sandbox.arena import Arena, Block, Layout, Place
from kernel_generator.sandbox.orders import Answer, Died, Done
from kernel_generator.sandbox.wire import Train

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from kernel_generator.evaluation.timing import Series
    from kernel_generator.sandbox.orders import TrainOrder

PLAN = TimingPlan(block_s=1e-3, min_blocks=3, max_blocks=5, budget_s=5.0)
LAYOUT = Layout.plan(0, (Place("x", "float32", (8,)),), (Place("y", "float32", (8,)),), sets=8)
TRIP_S = 1e-4
"""What an order and its answer take."""
FLUSH_S, EVENTS_S = 85e-6, 2.6e-6
NOISE_S = 1e-3
STORE_S = 3e-5


@dataclass
class Simulated:
    """Stands for a child: `device_s` is what its kernel takes, `claims_s` what it says."""

    device_s: float
    claims_s: float | None = None
    waits: bool = False
    """It waits for the device within a call, so that it cannot be queued."""
    noisy_trains: int = 0
    """So many queued trains of calls end late by the judge's clock, through no fault of it."""
    late_trains: int = 0
    """So many trains of nothing, not queued, take as long as those of a hundred calls."""
    dies_after: int = 10**9
    queued: int = 0
    freezes: int = 0
    trains: list[TrainOrder] = field(default_factory=list["TrainOrder"])

    def train(
        self,
        slot: int,
        order: TrainOrder,
        timeout: float,
        settle: Callable[[], None],
        meanwhile: Callable[[float], None] | None,
    ) -> Answer:
        del slot, timeout
        self.trains.append(order)
        if meanwhile is not None:
            meanwhile(time.perf_counter())
        if len(self.trains) > self.dies_after:
            return Died(-11)
        settle()
        per_call = 0.0 if order.mode in (Train.EMPTY, Train.MADE) else self.device_s
        if order.mode is Train.EMPTY and order.stores:
            per_call = STORE_S
        if order.mode is Train.EMPTY and not order.stores and self.late_trains:
            self.late_trains -= 1
            return Done(TRIP_S + 100 * self.device_s)
        return Done(TRIP_S + per_call * order.count)

    def train_gated(
        self,
        arena: Block,
        order: TrainOrder,
        fill: Callable[[], None],
        patience: float,
        timeout: float,
        settle: Callable[[], None],
        meanwhile: Callable[[float], None] | None,
    ) -> Answer:
        del arena, patience, timeout
        self.trains.append(order)
        fill()
        if meanwhile is not None:
            meanwhile(time.perf_counter())
        settle()
        empty = order.mode is Train.GATED_EMPTY
        took = 0.9e-6 if empty else self.device_s
        said = took if empty or self.claims_s is None else self.claims_s
        wall = TRIP_S + order.count * (FLUSH_S + took + EVENTS_S)
        if not empty:
            self.queued += 1
            wall += NOISE_S if self.queued <= self.noisy_trains else 0.0
        claimed_ns = order.count * (said + EVENTS_S) * 1e9
        return Done(wall, claimed_ns, gated=not self.waits)

    def stand_still(self) -> None:
        self.freezes += 1


@dataclass
class Quiet:
    """Rounds that change nothing, and count what is asked of them."""

    prepared: list[int] = field(default_factory=list[int])
    inspected: int = 0
    concluded: bool = True
    surprises: int = 0
    ahead: bool | None = False
    """Whether calls turn out to have been answered ahead; None: other inputs came too late."""

    def prepare(self, count: int, few: bool = False) -> None:
        del few
        self.prepared.append(count)

    def prepare_surprise(self, count: int) -> None:
        self.prepare(count)

    def surprise(self, party: Party) -> None:
        del party
        self.surprises += 1

    def foreseen(self, party: Party) -> bool | None:
        del party
        return self.ahead

    def fill(self, party: Party, count: int) -> None:
        assert count <= self.prepared[-1], f"{party.name} was to run on what nobody had prepared"

    def settle(self, party: Party) -> None:
        pass

    def settled(self, party: Party, called: bool) -> None:
        pass

    def inspect(self) -> None:
        self.inspected += 1
        self.concluded = False

    def conclude(self) -> None:
        self.concluded = True


@pytest.fixture
def shared() -> Generator[Arena]:
    arena = Arena.create(LAYOUT)
    yield arena
    arena.close()


def on_gpu(name: str, worker: Simulated, *, trusted: bool = True, sets: int = 8) -> Party:
    layout = replace(LAYOUT, sets=sets)
    block = Block(layout, torch.zeros(layout.nbytes, dtype=torch.uint8))
    return Party(name, worker, block, stores=False, trusted=trusted)  # type: ignore[arg-type]


def timed(
    *parties: Party, plan: TimingPlan = PLAN, rounds: Quiet | None = None, streams: bool = True
) -> dict[str, Series]:
    around = rounds or Quiet()
    clock = Clock(Trains(parties[-1], plan, around))
    ahead = Ahead(parties[0], clock.trains)
    found = time_together(list(parties), clock, ahead)
    assert around.concluded
    more_s = check_claims(parties[0], 0, clock, ahead, streams=streams)
    assert around.concluded
    return {**found, parties[0].name: found[parties[0].name].later(more_s)}


class TestOnAGpu:
    def test_what_events_add_is_taken_off(self) -> None:
        found = timed(on_gpu("candidate", Simulated(20e-6)), on_gpu("reference", Simulated(40e-6)))
        assert found["candidate"].per_call_s.tolist() == pytest.approx([20e-6] * 3)
        assert found["reference"].per_call_s.tolist() == pytest.approx([40e-6] * 3)

    @pytest.mark.parametrize("claim", [1e-6, 10e-6], ids=["nearly nothing", "half of it"])
    def test_a_claim_of_less_than_the_judges_clock_leaves_is_contradicted(
        self, claim: float
    ) -> None:
        liar = on_gpu("candidate", Simulated(20e-6, claims_s=claim))
        with pytest.raises(ClaimContradicted, match="candidate claims"):
            timed(liar, on_gpu("reference", Simulated(40e-6)))

    def test_an_honest_claim_that_a_spell_of_noise_contradicts_is_borne_out_later(self) -> None:
        # One train to warm up, three blocks, and then some of those that are added.
        honest = Simulated(20e-6, noisy_trains=8)
        rounds = Quiet()
        found = timed(
            on_gpu("candidate", honest), on_gpu("reference", Simulated(40e-6)), rounds=rounds
        )
        assert found["candidate"].per_call_s.tolist() == pytest.approx([20e-6] * 3)
        assert honest.queued == 8 + 2
        assert len(rounds.prepared) == 1 + rounds.inspected == 1 + 3 + 6

    def test_a_lie_is_told_from_a_spell_of_noise_that_does_not_end(self) -> None:
        liar = Simulated(20e-6, claims_s=10e-6)
        with pytest.raises(ClaimContradicted, match=r"claims 12\.60 us .* leaves 22\.60 us"):
            timed(on_gpu("candidate", liar), on_gpu("reference", Simulated(40e-6)))
        assert liar.queued == 1 + 3 + 8

    @pytest.mark.parametrize("claim", [-1.0, float("nan"), float("inf"), 1e3, -EVENTS_S], ids=str)
    def test_a_claim_that_cannot_be_is_contradicted(self, claim: float) -> None:
        liar = on_gpu("candidate", Simulated(20e-6, claims_s=claim))
        with pytest.raises(ClaimContradicted, match="candidate claims"):
            timed(liar, on_gpu("reference", Simulated(40e-6)))

    def test_what_waits_for_the_device_is_timed_by_the_judges_clock_and_labelled(self) -> None:
        waiting = on_gpu("candidate", Simulated(20e-6, claims_s=1e-9, waits=True))
        found = timed(waiting, on_gpu("reference", Simulated(40e-6)))["candidate"]
        assert found.host_bound
        assert "host-bound" in found.timer
        assert found.per_call_s.tolist() == pytest.approx([20e-6] * len(found.per_call_s))


@dataclass
class Swaps(Simulated):
    """Of its two blocks a round it claims the more of the first, the less it does of the second."""

    blocks: int = 0
    calls: int = 0

    def train_gated(self, arena: Block, order: TrainOrder, *others: Any) -> Answer:
        done = super().train_gated(arena, order, *others)
        if order.mode is not Train.GATED:
            return done
        self.blocks, self.calls = self.blocks + 1, self.calls or order.count
        if self.blocks == 1 or order.count != self.calls:
            return done
        share = 1.8 if self.blocks % 2 == 0 else 0.2
        return replace(done, device_ns=done.device_ns * share)


@dataclass
class SlowAtFirst(Simulated):
    """Takes its time in the first trains, so that a block is one call."""

    slow: int = 2
    answers_in: float = TRIP_S

    def train(self, *order: Any) -> Answer:
        done = super().train(*order)
        self.slow -= 1
        return replace(done, wall_s=0.012 if self.slow >= 0 else done.wall_s - self.saved_s)

    @property
    def saved_s(self) -> float:
        return TRIP_S - self.answers_in


@dataclass
class LeavesDirty(Simulated):
    """Writes to memory of its own, which is written back while the cache is flushed."""

    late_s: float = 0.0

    def train_gated(self, arena: Block, order: TrainOrder, *others: Any) -> Answer:
        done = super().train_gated(arena, order, *others)
        late_s = self.late_s * order.count if order.mode is Train.GATED else 0.0
        return replace(done, wall_s=done.wall_s + late_s)


class TestClaims:
    PLAN = TimingPlan(min_blocks=7, max_blocks=7, against_itself=True, looks=4, long_blocks=True)

    @classmethod
    def judged(cls, candidate: Simulated, *, streams: bool = False) -> Series:
        mine = on_gpu("candidate", candidate, trusted=False, sets=96)
        reference = on_gpu("reference", Simulated(80e-6), sets=96)
        return timed(mine, reference, plan=cls.PLAN, streams=streams)["candidate"]

    def test_of_blocks_that_only_noise_is_taken_from_bear_out_no_others(self) -> None:
        with pytest.raises(ClaimContradicted, match="candidate claims"):
            self.judged(Swaps(40e-6))

    def test_of_who_made_its_blocks_short_are_held_against_longer_ones(self) -> None:
        with pytest.raises(ClaimContradicted, match=r"claims 10\.8.* leaves 17\.6"):
            self.judged(SlowAtFirst(15e-6, claims_s=8.2e-6), streams=True)

    @pytest.mark.parametrize("claim", [None, 150e-6], ids=["of its own time", "of less"])
    def test_that_the_clock_exceeds_by_what_a_cache_can_hold_are_made_up(
        self, claim: float | None
    ) -> None:
        found = self.judged(LeavesDirty(164.6e-6, claims_s=claim, late_s=10e-6))
        assert found.per_call_s.tolist() == pytest.approx([174.6e-6] * 7, rel=0.01)
        assert "us a call added" in found.timer

    def test_that_the_clock_exceeds_by_more_are_contradicted(self) -> None:
        with pytest.raises(ClaimContradicted, match="candidate claims"):
            self.judged(LeavesDirty(164.6e-6, late_s=45e-6))

    def test_of_who_uses_streams_are_made_up_by_nothing(self) -> None:
        with pytest.raises(ClaimContradicted, match="candidate claims"):
            self.judged(LeavesDirty(164.6e-6, late_s=10e-6), streams=True)


class TestOnACpu:
    def test_who_made_its_blocks_short_is_timed_again_in_longer_ones(self, shared: Arena) -> None:
        # What the trusted child takes to answer is taken off; its own loop answers sooner.
        quick = SlowAtFirst(50e-6, slow=3, answers_in=TRIP_S / 4)
        found = timed(
            Party("candidate", quick, shared, stores=False, trusted=False),  # type: ignore[arg-type]
            Party("reference", Simulated(2e-4), shared, stores=False),  # type: ignore[arg-type]
        )
        per_call_s = 50e-6 - 0.75 * TRIP_S / LAYOUT.sets
        assert found["candidate"].per_call_s.tolist() == pytest.approx([per_call_s] * 3)

    def test_a_claim_is_not_asked_for(self, shared: Arena) -> None:
        boaster, reference = Simulated(1e-4, claims_s=1e-9), Simulated(2e-4)
        found = timed(
            Party("candidate", boaster, shared, stores=False, trusted=False),  # type: ignore[arg-type]
            Party("reference", reference, shared, stores=True),  # type: ignore[arg-type]
        )
        assert found["candidate"].per_call_s.tolist() == pytest.approx([1e-4] * 3)

    def test_only_of_trusted_code_what_storing_takes_is_taken_off(self, shared: Arena) -> None:
        found = timed(
            Party("candidate", Simulated(1e-4), shared, stores=True, trusted=False),  # type: ignore[arg-type]
            Party(INCUMBENT, Simulated(1e-4), shared, stores=True, trusted=False),  # type: ignore[arg-type]
            Party("reference", Simulated(1e-4), shared, stores=True),  # type: ignore[arg-type]
        )
        shown = {name: series.per_call_s[0] for name, series in found.items()}
        assert shown == pytest.approx({"candidate": 1e-4, INCUMBENT: 1e-4, "reference": 7e-5})

    def test_trains_of_nothing_that_were_late_are_not_taken_off(self, shared: Arena) -> None:
        found = timed(
            Party("candidate", Simulated(1e-4), shared, stores=False),  # type: ignore[arg-type]
            Party("reference", Simulated(1e-4, late_trains=5), shared, stores=False),  # type: ignore[arg-type]
        )
        assert found["candidate"].per_call_s.tolist() == pytest.approx([1e-4] * 3)

    def test_no_block_has_more_calls_than_there_are_sets(self, shared: Arena) -> None:
        quick = Simulated(1e-6)
        timed(
            Party("candidate", quick, shared, stores=False),  # type: ignore[arg-type]
            Party("reference", Simulated(1e-6), shared, stores=False),  # type: ignore[arg-type]
        )
        assert max(order.count for order in quick.trains) == LAYOUT.sets


def test_timers_are_named_and_differ() -> None:
    gpu = timed(on_gpu("candidate", Simulated(20e-6)), on_gpu("reference", Simulated(1e-5)))
    waiting = Simulated(20e-6, waits=True)
    bound = timed(on_gpu("candidate", waiting), on_gpu("reference", Simulated(1e-5)))
    assert gpu["candidate"].timer
    assert gpu["candidate"].timer != bound["candidate"].timer


def test_the_candidate_stands_still_while_others_are_timed() -> None:
    candidate = Simulated(20e-6)
    timed(
        on_gpu("candidate", candidate, trusted=False),
        on_gpu("reference", Simulated(40e-6)),
        on_gpu("other", Simulated(40e-6)),
    )
    own_trains = len(candidate.trains)
    # Before its trains, before the first round and after each block.
    assert candidate.freezes == own_trains + 1 + 3


def test_an_incumbent_stands_still_while_the_candidate_is_timed() -> None:
    incumbent = Simulated(20e-6)
    timed(
        on_gpu("candidate", Simulated(20e-6), trusted=False),
        on_gpu(INCUMBENT, incumbent, trusted=False),
        on_gpu("reference", Simulated(40e-6)),
    )
    assert incumbent.freezes == len(incumbent.trains) + 1 + 3


def test_every_candidate_is_surprised_and_refused_where_it_answers_ahead() -> None:
    honest = Quiet()
    timed(on_gpu("a", Simulated(10e-6), trusted=False), rounds=honest)
    assert honest.surprises >= 1
    with pytest.raises(Wrong, match="computed ahead") as found:
        timed(on_gpu("a", Simulated(10e-6), trusted=False), rounds=Quiet(ahead=True))
    assert found.value.outcome is Outcome.TIMING_UNTRUSTED


def test_calls_that_had_written_before_their_turn_were_answered_ahead() -> None:
    # No time passes here but by the judge's clock: each is asked for at the start of its block.
    rounds = Quiet(ahead=None)
    with pytest.raises(Wrong, match=r"into a block of 0\.\d+ ms, one of its last calls"):
        timed(on_gpu("a", Simulated(10e-6), trusted=False), rounds=rounds)
    assert rounds.surprises <= 3 + 2


def test_inputs_that_came_too_late_are_tried_again_a_few_times() -> None:
    class Late(Quiet):
        def surprise(self, party: Party) -> None:
            super().surprise(party)
            time.sleep(2e-3)

    rounds = Late(ahead=None)
    timed(on_gpu("a", Simulated(10e-6), trusted=False), rounds=rounds)
    assert 4 <= rounds.surprises <= 4 + 3


def test_a_lie_that_short_blocks_hide_shows_in_long_ones() -> None:
    plan = TimingPlan(block_s=2e-4, min_blocks=3, max_blocks=3, budget_s=5.0)

    def judged(plan: TimingPlan) -> Series:
        liar = on_gpu("candidate", Simulated(20e-6, claims_s=5e-6), trusted=False)
        return timed(liar, on_gpu("reference", Simulated(4e-5)), plan=plan)["candidate"]

    assert judged(plan).per_call_s.tolist() == pytest.approx([5e-6] * 3)
    with pytest.raises(ClaimContradicted, match="candidate claims"):
        judged(replace(plan, long_blocks=True))


def test_calls_that_wrote_too_early_for_a_look_into_short_blocks_show_in_long_ones() -> None:
    class Late(Quiet):
        def surprise(self, party: Party) -> None:
            super().surprise(party)
            time.sleep(5e-3)

    def judged(plan: TimingPlan) -> Series:
        early = on_gpu("candidate", Simulated(2e-3), trusted=False, sets=32)
        reference = on_gpu("reference", Simulated(2e-3), sets=32)
        return timed(early, reference, plan=plan, rounds=Late(ahead=None))["candidate"]

    # Four calls of 2 ms, and 32.
    plan = TimingPlan(block_s=9e-3, min_blocks=3, max_blocks=3, budget_s=5.0)
    assert judged(plan).per_call_s.tolist() == pytest.approx([2e-3] * 3)
    with pytest.raises(Wrong, match="into a block of 6"):
        judged(replace(plan, long_blocks=True))


def test_who_is_trusted_is_not_surprised() -> None:
    rounds = Quiet()
    timed(on_gpu("a", Simulated(10e-6)), rounds=rounds)
    assert rounds.surprises == 0


def test_a_party_that_dies_is_named_with_how_it_died() -> None:
    with pytest.raises(TimingFailed) as failed:
        timed(on_gpu("candidate", Simulated(1e-5, dies_after=1)), on_gpu("r", Simulated(1e-5)))
    assert (failed.value.party, failed.value.answer) == ("candidate", Died(-11))


def test_every_party_is_timed_in_every_round_and_every_round_is_looked_at() -> None:
    rounds = Quiet()
    found = timed(*(on_gpu(f"p{i}", Simulated(2e-5)) for i in range(3)), rounds=rounds)
    assert {len(series.per_call_s) for series in found.values()} == {rounds.inspected}


def test_a_loser_is_timed_no_longer_once_that_is_certain() -> None:
    plan = TimingPlan(block_s=1e-3, min_blocks=3, max_blocks=50, budget_s=60.0)
    rival = on_gpu(INCUMBENT, Simulated(10e-6))
    found = timed(on_gpu("candidate", Simulated(20e-6)), rival, plan=plan)
    assert len(found["candidate"].per_call_s) == 3


class TestAnotherRound:
    """After rounds of a second each, unless told otherwise, with a budget of one."""

    PLAN = TimingPlan(min_blocks=6, max_blocks=30, budget_s=1.0, enough=0.06, against_itself=True)

    @staticmethod
    def worth(
        candidate: list[float], incumbent: list[float], itself: list[float], round_s: float = 1.0
    ) -> bool:
        mine, rival = on_gpu("candidate", Simulated(1.0)), on_gpu(INCUMBENT, Simulated(1.0))
        mine.per_call_s, rival.per_call_s = candidate, incumbent
        return another_round([mine, rival], itself, TestAnotherRound.PLAN, round_s * len(candidate))

    @pytest.mark.parametrize(
        ("blocks", "incumbent", "worth"),
        [(4, 2.0, True), (5, 1.05, True), (4, 0.9, False), (6, 2.0, False), (6, 1.05, False)],
    )
    def test_is_worth_it_up_to_the_least_for_who_seems_faster_however_slow(
        self, blocks: int, incumbent: float, worth: bool
    ) -> None:
        assert self.worth([1.0] * blocks, [incumbent] * blocks, [1.0] * blocks) is worth

    def test_is_worth_it_while_a_gain_is_within_the_noise_of_the_same_measurement(self) -> None:
        disturbed = [9.0, 9.0, 1.0, 1.0, 1.0, 1.0]
        assert self.worth([1.0] * 6, [5.0] * 6, disturbed)
        assert not self.worth([1.0] * 14, [5.0] * 14, [1.0] * 8 + disturbed)

    def test_is_worth_it_while_a_gain_may_be_none(self) -> None:
        assert self.worth([9.0, 9.0, 1.0, 1.0, 1.0, 1.0], [5.0] * 6, [1.0] * 6)
        assert not self.worth([9.0] * 2 + [1.0] * 12, [5.0] * 14, [1.0] * 14)

    def test_tells_a_faster_kernel_on_a_busy_machine_and_promotes_no_equal_one(self) -> None:
        rng = np.random.default_rng(5)

        def block(takes: float) -> float:
            return takes * float(rng.lognormal(0, 0.1)) + 8.0 * float(rng.random() < 0.2)

        def is_promoted(rival: float) -> bool:
            mine, its, itself = [block(1.0)], [block(rival)], [block(1.0)]
            while len(mine) < 3 or self.worth(mine, its, itself, 0.5):
                for series, takes in ((mine, 1.0), (its, rival), (itself, 1.0)):
                    series.append(block(takes))
            against = interval(np.array(its) / np.array(mine))
            return promotes(against, noise(np.array(itself), np.array(mine)))

        assert sum(is_promoted(10.0) for _ in range(50)) >= 45
        assert sum(is_promoted(1.0) for _ in range(50)) == 0


def test_the_candidate_is_timed_against_itself_on_inputs_of_its_own() -> None:
    plan = TimingPlan(block_s=1e-3, min_blocks=3, max_blocks=3, budget_s=5.0, against_itself=True)
    rounds = Quiet()
    found = timed(
        on_gpu("candidate", Simulated(2e-5)),
        on_gpu("reference", Simulated(4e-5)),
        plan=plan,
        rounds=rounds,
    )
    assert len(found[ITSELF].per_call_s) == 3
    assert len(rounds.prepared) == 1 + 2 * 3


def test_what_is_too_slow_for_the_budget_is_timed_a_few_times_only() -> None:
    plan = TimingPlan(block_s=1e-4, min_blocks=50, max_blocks=90, budget_s=0.0)
    found = timed(
        on_gpu("candidate", Simulated(2.0)), on_gpu("reference", Simulated(2.0)), plan=plan
    )
    assert len(found["candidate"].per_call_s) == 3


def test_call_time_is_the_judges_clock_around_calls_that_are_waited_for() -> None:
    candidate = on_gpu("candidate", Simulated(2e-5))
    candidate.count = 8
    clock = Clock(Trains(on_gpu("reference", Simulated(4e-5)), PLAN, Quiet()))
    assert clock.call_time(candidate).value == pytest.approx(20.0)
