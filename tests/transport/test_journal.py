"""The ring of last happenings."""

from __future__ import annotations

from worker.transport.journal import MAX_ENTRIES, Journal


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_happenings_are_told_oldest_first_with_their_age() -> None:
    clock = Clock()
    journal = Journal(clock)
    journal.note("assigned partitions [0, 1]")
    clock.now_s += 2.5
    journal.note("restored 7 rows")
    clock.now_s += 1
    assert journal.lines() == [
        "3.5 s ago: assigned partitions [0, 1]",
        "1.0 s ago: restored 7 rows",
    ]


def test_what_repeats_keeps_only_its_latest_time_and_a_count() -> None:
    clock = Clock()
    journal = Journal(clock)
    journal.note("assigned partitions [0]")
    for offset in range(1000):
        clock.now_s += 1
        journal.repeat("applied partition 0", f"up to {offset}")
        journal.repeat("committed", "1 partition")
    assert journal.lines() == [
        "1000.0 s ago: assigned partitions [0]",
        "0.0 s ago: applied partition 0 up to 999 (the last of 1000)",
        "0.0 s ago: committed 1 partition (the last of 1000)",
    ]


def test_it_is_bounded_whatever_happens() -> None:
    clock = Clock()
    journal = Journal(clock)
    for number in range(3 * MAX_ENTRIES):
        clock.now_s += 1
        journal.note(f"note {number}")
        journal.repeat(f"applied partition {number}", "up to 1")
    lines = journal.lines()
    assert len(lines) == MAX_ENTRIES
    assert lines[-1].endswith(f"applied partition {3 * MAX_ENTRIES - 1} up to 1")
    assert len(journal._repeating) == MAX_ENTRIES
