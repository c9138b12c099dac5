from __future__ import annotations

import json
import subprocess
import sys

from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stub hides them
    GroupMember,
    GroupMetadata,
)

from load.records import unique
from tests.transport.conftest import Job, simulated
from tests.transport.test_exactly_once import WAIT_S, wait_until_all_is_committed
from worker.transport.group import ORPHANED_AFTER_S, RANDOM_ID_CHARS, OrphanJudge, members_of

EVENTS = 2_000


def test_a_partition_that_nobody_owns_for_a_while_makes_the_least_busy_member_join_anew() -> None:
    members = {"a": [0, 1], "b": [3], "c": [4]}
    a, b, c = (OrphanJudge(instance) for instance in members)
    for judge in (a, b, c):
        assert judge.look(members, 5, 100.0) == []
        assert judge.look(members, 5, 100.0 + ORPHANED_AFTER_S - 0.1) == []
    later_s = 100.0 + ORPHANED_AFTER_S
    assert [judge.look(members, 5, later_s) for judge in (a, b, c)] == [[], [2], []]
    assert b.look(members, 5, later_s + 1) == []


def test_what_does_not_help_is_tried_ever_more_seldom_until_it_helps() -> None:
    judge = OrphanJudge("a")
    tried = [s for s in range(0, 1000, 5) if judge.look({"a": [0]}, 2, float(s))]
    assert tried == [10, 35, 80, 165, 330, 655]
    assert judge.look({"a": [0, 1]}, 2, 1000.0) == []
    assert [s for s in range(1005, 1020, 5) if judge.look({"a": [0]}, 2, float(s))] == [1015]


def test_a_group_that_changes_is_left_alone() -> None:
    judge = OrphanJudge("a")
    for second in range(0, 100, 5):
        assert judge.look({"a": [0]} if second % 10 else None, 2, float(second)) == []
    for second in range(0, 100, 5):
        owned = [0, 1] if second % 10 else [0, 2]
        assert judge.look({"a": owned}, 3, float(second)) == []


def test_a_member_that_the_leader_left_out_owns_nothing() -> None:
    member = GroupMember()
    member.id = "a" + "-" * RANDOM_ID_CHARS
    member.assignment = b""
    group = GroupMetadata()
    group.state, group.members = "Stable", [member]
    assert members_of(group, "events") == {"a": []}


def test_a_partition_that_the_group_has_forgotten_is_given_an_owner(job: Job) -> None:
    """A member dies while it gives partitions up; its successor takes its old place."""
    app_id = unique("forgotten")
    first = job.settings(app_id)
    second = {**first, "worker.instance_id": "1"}
    job.feed(simulated(job.bundle, EVENTS))
    config = {
        "bootstrap.servers": first["kafka.brokers"],
        "group.id": app_id,
        "group.instance.id": f"{app_id}-0",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": 30_000,
    }
    dying = subprocess.Popen(
        [sys.executable, "-m", "tests.support.dying_member", json.dumps(config), job.source],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert dying.stdout is not None
    try:
        assert dying.stdout.readline() == b"assigned\n"
        with job.worker(second):
            assert dying.wait(WAIT_S) == 9
            with job.worker(first):
                wait_until_all_is_committed(job, app_id)
    finally:
        dying.kill()
        dying.wait(WAIT_S)
        dying.stdout.close()
    assert "nobody owns partitions" in job.log(app_id)
    assert job.published(app_id) == job.expected()[0]
