from __future__ import annotations

from tests.support.fleet import AT_MS, anomaly, at, drift, episode, fleet, health, known
from worker.api import views
from worker.api.fleet import Fleet


def plant() -> Fleet:
    seen = fleet()
    seen.put([known(name) for name in ("press-1", "press-2", "mill-1", "Mill-2")])
    seen.apply(episode("mill-1", severity="low"), AT_MS)
    seen.apply(episode("press-2", minute=3, severity="high"), AT_MS)
    seen.apply(episode("press-1", minute=2, severity="high"), AT_MS)
    seen.apply(health("Mill-2"), AT_MS)
    return seen


def names(page: views.MachinePage) -> list[str]:
    return [row.machine_id for row in page.machines]


def test_the_most_urgent_machines_come_first_and_the_oldest_of_them() -> None:
    page = views.machine_page(plant())
    assert names(page) == ["press-1", "press-2", "mill-1", "Mill-2"]
    assert page.states["high"] == 2
    assert (page.machines[0].since, page.machines[0].why) == (at(2), "torque")


def test_machines_are_filtered_sorted_and_paged() -> None:
    seen = plant()
    assert names(views.machine_page(seen, text="MILL", sort="machine")) == ["Mill-2", "mill-1"]
    assert names(views.machine_page(seen, frozenset({"low", "sensor"}))) == ["mill-1", "Mill-2"]
    assert names(views.machine_page(seen, sort="since"))[:2] == ["press-2", "press-1"]
    page = views.machine_page(seen, offset=1, limit=2)
    assert (page.total, names(page)) == (4, ["press-2", "mill-1"])


def test_one_machine_is_told_with_the_age_of_its_features() -> None:
    seen = plant()
    seen.apply(anomaly("press-1", 7), AT_MS)
    view = views.machine_view(seen, "press-1", AT_MS + 90_000)
    assert view is not None
    assert view.latest is not None
    assert view.latest.age_s == view.latest.written_age_s == 90.0
    assert view.latest.features["rolling_std_torque"] == 0.1
    assert [told.episode.opened_at for told in view.episodes] == [at(2)]
    assert view.samples.time_ms == [AT_MS, AT_MS + 420_000]
    assert view.samples.values == {"torque": [40.1, 99.0], "speed": [None, None]}
    assert views.machine_view(seen, "none", AT_MS) is None


def test_open_episodes_come_before_closed_ones_and_the_latest_first() -> None:
    seen = plant()
    seen.apply(episode("mill-1", 2, "closed", severity="low"), AT_MS)
    every = views.episode_page(seen, "all")
    opened = [(told.episode.machine_id, told.episode.status) for told in every.episodes]
    assert opened == [("press-2", "opened"), ("press-1", "opened"), ("mill-1", "closed")]
    assert views.episode_page(seen, "open").total == 2
    assert views.episode_page(seen, "closed", "press-1").total == 0
    assert len(views.episode_page(seen, "all", offset=1, limit=1).episodes) == 1


def test_drift_that_is_open_comes_first_and_the_latest_is_whatever_was_told_last() -> None:
    seen = fleet()
    assert views.latest_drift(seen).latest is None
    seen.apply(drift("machine_type=L", 1), AT_MS)
    seen.apply(drift("fleet", 3, "closed"), AT_MS)
    assert [event.group for event in views.drift_page(seen).drifts] == ["machine_type=L", "fleet"]
    latest = views.latest_drift(seen).latest
    assert latest is not None
    assert latest.group == "fleet"


def test_the_overview_counts_every_machine_once() -> None:
    told = views.overview(plant())
    assert (told.machines, sum(told.states.values())) == (4, 4)
    assert next(iter(told.states)) == "high"
