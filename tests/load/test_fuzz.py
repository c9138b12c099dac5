from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from load.fuzz import Account, figures, run
from load.hostile import Generator
from worker.core.channels import ChannelSpec
from worker.core.messages import DEAD_LETTER_REASONS, MAX_EVENT_BYTES
from worker.models.bundle import Bundle

PAYLOADS = 20_000
LIMITED = {"too-many-machines", "too-many-windows", "invalid-partial"}
"""The reasons that no event alone can have."""


@pytest.fixture
def spec(bundle: Bundle) -> ChannelSpec:
    return bundle.spec


@pytest.mark.kafka
def test_every_hostile_payload_is_scored_late_or_dead_and_the_worker_lives(tmp_path: Path) -> None:
    seen: list[int] = []
    account = run(PAYLOADS, 11, tmp_path, seen.append)

    assert account.passed, figures(account)
    assert account.topics.total() == PAYLOADS == seen[-1]
    assert {outcome for outcome, count in account.topics.items() if count >= 20} >= (
        {"scored", "late"} | DEAD_LETTER_REASONS.keys() - LIMITED
    )
    assert account.clear.total() > PAYLOADS / 2
    ready_mib, peak_mib, end_mib = account.memory_mib
    assert 50 < ready_mib <= peak_mib >= end_mib
    told = json.loads(json.dumps(figures(account)))
    assert told["scored"] + told["late"] + told["dead"] == told["payloads"] == PAYLOADS
    assert (told["crashes"], told["unaccounted"], told["misjudged"]) == (0, 0, 0)


def test_payloads_follow_from_the_seed(spec: ChannelSpec) -> None:
    made = [list(islice(Generator(spec, seed, 1_772_000_000_000), 500)) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_every_clear_kind_is_made_and_sizes_reach_megabytes(spec: ChannelSpec) -> None:
    payloads = list(islice(Generator(spec, 3, 1_772_000_000_000), 60_000))
    kinds = Counter(payload.expected for payload in payloads)
    assert kinds.keys() == {None, "scored", *DEAD_LETTER_REASONS} - LIMITED
    sizes = [len(payload.value or b"") for payload in payloads]
    assert any(MAX_EVENT_BYTES < size < 2 * MAX_EVENT_BYTES for size in sizes)
    assert any(size > 2**20 for size in sizes)
    assert any(payload.key is None and payload.value is not None for payload in payloads)
    assert any(len(payload.key or b"") > MAX_EVENT_BYTES for payload in payloads)


@pytest.mark.parametrize(
    "flaw",
    [
        {"metrics": Counter(scored=2)},
        {"topics": Counter(scored=2), "metrics": Counter(scored=2)},
        {"unaccounted": 1},
        {"doubled": 1},
        {"misjudged": 1},
        {"alive": False},
        {"status": 70},
    ],
)
def test_any_flaw_fails_the_campaign(flaw: dict[str, object]) -> None:
    counted = Counter(scored=2, empty=1)
    whole: dict[str, object] = {
        "produced": 3,
        "seed": 1,
        "metrics": counted,
        "topics": counted,
        "alive": True,
        "status": 0,
        "memory_mib": [1.0, 2.0, 1.0],
    }
    assert Account(**whole).passed
    assert not Account(**(whole | flaw)).passed
