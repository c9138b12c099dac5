"""The worker on the simulated broker: thousands of seeds, and defects that must not pass."""

from __future__ import annotations

import multiprocessing

import pytest
from typer.testing import CliRunner

from load.simulation.__main__ import app
from load.simulation.campaign import ENOUGH_SEEDS, run_campaign
from load.simulation.world import simulate
from tests.simulation import mutants


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    simulate(0)


@pytest.mark.timeout(1800)  # a busy machine may take many times the usual minute
def test_five_hundred_seeds_meet_every_fault_and_break_no_promise() -> None:
    summary = run_campaign(range(ENOUGH_SEEDS))
    assert summary.seeds == ENOUGH_SEEDS
    assert [(o.seed, o.violation) for o in summary.failed] == []
    assert summary.never_happened == []


def test_a_seed_is_the_same_run_every_time_and_in_every_process() -> None:
    seeds = range(8)
    here = [simulate(seed).digest for seed in seeds]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = [outcome.digest for outcome in pool.map(simulate, seeds)]
    assert here == there
    assert len(set(here)) == len(seeds)


# How many seeds each took when it was written: the bound leaves room for a changed order.
@pytest.mark.parametrize(
    ("mutant", "within"),
    [
        (mutants.offsets_are_committed_before_state, 5),
        (mutants.what_was_gathered_is_told_twice, 5),
        (mutants.the_groups_generation_is_not_told, 400),
        (mutants.a_loss_is_ignored, 400),
        (mutants.what_was_seen_is_applied_again, 20),
        (mutants.restore_stops_a_row_early, 20),
        (mutants.episodes_are_forgotten_at_a_take_over, 200),
        (mutants.partitions_are_given_back_without_a_commit, 60),
        (mutants.a_repeated_commit_forgets_its_records, 200),
        (mutants.after_a_failed_commit_work_goes_on, 100),
        (mutants.a_commit_without_an_answer_is_done_again, 200),
        (mutants.partitions_without_an_owner_are_never_looked_for, 200),
    ],
)
def test_a_defect_put_in_on_purpose_is_caught(
    monkeypatch: pytest.MonkeyPatch, mutant: mutants.Mutant, within: int
) -> None:
    with monkeypatch.context() as patch:
        mutant(patch)
        caught = next((seed for seed in range(within) if simulate(seed).violation), None)
    assert caught is not None
    assert simulate(caught).violation is None
    print(f"{mutant.__name__}: caught after {caught + 1} seeds")


def test_a_failing_seed_says_what_was_violated_and_how_to_replay_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutants.offsets_are_committed_before_state(monkeypatch)
    result = CliRunner().invoke(app, ["--seed", "0"])
    assert result.exit_code == 1
    assert "ViolationError: state" in result.output
    assert "make simulate SEED=0" in result.output


def test_seeds_are_a_count_or_a_range() -> None:
    result = CliRunner().invoke(app, ["--seeds", "3-4"])
    assert result.exit_code == 0
    assert "2 seeds" in result.output
    assert CliRunner().invoke(app, ["--seeds", "4-3"]).exit_code == 2
    assert CliRunner().invoke(app, ["--seeds", "many"]).exit_code == 2
