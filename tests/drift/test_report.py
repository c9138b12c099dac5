"""``driftdetector drift report``: what the page and the terminal say of two files."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib
import msgspec
import numpy as np
import polars as pl
import pytest

from load.drift_fleet import AFTER_US, US_PER_HOUR, events
from load.drift_live import CHANGES
from worker.cli.main import run
from worker.models.bundle import Bundle

MINUTE_US = 60_000_000
SPITEFUL = "<script>alert('x')</script>&amp;"
TEMPERATURE = "Air temperature [K]"


def recording(rows: int, seed: int, since: int | None = None) -> pl.DataFrame:
    """Two machines, a row each minute; from row ``since`` on one channel is one sigma higher."""
    rng = np.random.default_rng(seed)
    at = np.repeat(np.arange(rows), 2)
    temperature = 300.0 + 2.0 * rng.normal(size=2 * rows)
    if since is not None:
        temperature[at >= since] += 2.0
    return pl.DataFrame(
        {
            "machine_id": np.tile(["press-1", SPITEFUL], rows),
            "timestamp": AFTER_US + at * MINUTE_US,
            TEMPERATURE: temperature,
            "load": rng.gamma(4.0, size=2 * rows),
            "mode": np.where(rng.random(2 * rows) < 0.3, "<b>fast</b>", "slow"),
        }
    )


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "usual.parquet"
    recording(20_000, 1).write_parquet(path)
    return path


def written(folder: Path, frame: pl.DataFrame, name: str = "now.csv") -> Path:
    frame.write_csv(folder / name)
    return folder / name


def page(out: Path) -> Element:
    """The page, read by a parser that refuses whatever is not right."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    root: Element = parser.parse(out.read_text())
    return root


def text(element: Element) -> str:
    return re.sub(r"\s+", " ", "".join(element.itertext())).strip()


def rows_of(root: Element, table: str) -> dict[str, list[str]]:
    found = root.find(f".//table[@id='{table}']/tbody")
    assert found is not None
    cells = [[text(cell) for cell in row] for row in found]
    return {row[0]: row[1:] for row in cells}


def report(*arguments: Path | str) -> int:
    return run(["drift", "report", *map(str, arguments)])


def test_a_shift_is_said_with_its_size_its_channel_and_its_beginning(
    usual: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(tmp_path, recording(2000, 2, since=1200))
    out = tmp_path / "page.html"
    assert report("--data", data, "--reference", usual, "--out", out) == 0
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "most clearly air_temperature_k: up by" in shown
    root = page(out)
    verdict = root.find(".//div[@role='status']")
    assert verdict is not None
    assert text(verdict).startswith("Yes. The data differ from the reference: 1 of 2 features")
    found = rows_of(root, "features")
    drifted, score, effect, direction, since, p_value, *_ = found["air_temperature_k"]
    assert (drifted, direction) == ("yes", "up")
    # Two fifths of the rows are one standard deviation higher.
    assert float(score) == pytest.approx(0.4, abs=0.06)
    assert effect.endswith(" K")
    assert float(effect.split()[0]) == pytest.approx(0.8, abs=0.12)
    assert float(p_value.strip("< ")) < 0.01
    began = np.datetime64(since) - np.datetime64(AFTER_US, "us")
    assert abs(int(began / np.timedelta64(1, "m")) - 1200) <= 60
    assert found["load"][0] == "no"
    assert len(root.findall(".//figure/{http://www.w3.org/2000/svg}svg")) == 3


def test_the_page_fetches_nothing_runs_nothing_and_escapes_names(
    usual: Path, tmp_path: Path
) -> None:
    data = written(tmp_path, recording(2000, 2, since=0), name="<i>now<i>.csv")
    out = tmp_path / "page.html"
    assert report("--data", data, "--reference", usual, "--out", out) == 0
    root, source = page(out), out.read_text()
    assert {element.tag for element in root.iter() if isinstance(element.tag, str)} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
    } == set()
    assert not re.search(r"(?:https?:)?//\w|url\(|@import|\son\w+=", source)
    assert SPITEFUL in text(root)
    assert "Has <i>now<i>.csv drifted?" in text(root)
    assert "mode=<b>fast</b>" in rows_of(root, "groups")
    assert len(source) < 100_000


def test_without_a_change_it_says_what_it_would_have_seen(usual: Path, tmp_path: Path) -> None:
    data = written(tmp_path, recording(2000, 3))
    out = tmp_path / "page.html"
    assert report("--data", data, "--reference", usual, "--out", out) == 0
    verdict = page(out).find(".//div[@role='status']")
    assert verdict is not None
    assert text(verdict).startswith("No drift seen. No drift was found.")
    assert "it would be found nine times in ten from" in text(verdict)


def test_a_reference_that_is_too_short_says_what_it_cannot_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, short = (written(tmp_path, recording(2000, seed), name=f"{seed}.csv") for seed in (4, 5))
    assert report("--data", data, "--reference", short) == 0
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "All at once cannot be judged" in shown
    assert "has to be 5 times as long" in shown


def test_a_bundle_is_its_own_reference_and_its_score_is_watched(
    watched: Bundle, tmp_path: Path
) -> None:
    changed = [msgspec.json.decode(value) for _, value in events(14, [CHANGES["step"]])]
    data = written(tmp_path, pl.DataFrame(changed))
    out = tmp_path / "page.html"
    assert report("--data", data, "--model", watched.path, "--out", out) == 0
    root = page(out)
    found = rows_of(root, "features")
    assert len(found) == len(watched.require_reference().columns)
    assert found["model_score"][0] == "yes"
    assert found["pressure"][0] == "yes"
    hour = (CHANGES["step"].start_us - AFTER_US) // US_PER_HOUR
    assert found["pressure"][4].endswith(f"{hour:02}:00")
    made = [text(element) for element in root.iter("dd")]
    assert watched.model_version in made
    assert watched.require_reference().hash in made


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --reference, or --model"),
        (["--reference", "usual", "--model", "x", "--channels", "y"], "not both"),
        (["--reference", "missing.csv"], "missing.csv cannot be read"),
        (["--reference", "few"], "has 198 usable rows; at least 200 are needed"),
        (["--reference", "strange"], "share no column of numbers"),
        (["--reference", "timeless"], "there is no column 'timestamp'"),
        (["--reference", "usual", "--data", "empty"], "has no usable rows"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_sentence(
    arguments: list[str],
    said: str,
    usual: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = recording(300, 6)
    strange = now.select("machine_id", "timestamp", pl.lit("a").alias("word"))
    files = {
        "usual": usual,
        "few": written(tmp_path, now.head(198), "few.csv"),
        "strange": written(tmp_path, strange, "strange.csv"),
        "timeless": written(tmp_path, now.drop("timestamp"), "timeless.csv"),
        "empty": written(tmp_path, now.with_columns(machine_id=pl.lit("")), "empty.csv"),
    }
    data = written(tmp_path, now)
    given = [str(files.get(argument, argument)) for argument in arguments]
    assert report("--data", data, *given) == 78
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
