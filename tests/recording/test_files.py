from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from worker.core.errors import RecordingError
from worker.recording.files import (
    Gap,
    Lock,
    Segment,
    gaps,
    positions,
    recorded_topics,
    segments_of,
)
from worker.recording.parquet import Columns, read_batches
from worker.recording.writing import Writer

TOPIC = "events"


def columns(offsets: range, day: int = 0) -> Columns:
    return {
        "offset": list(offsets),
        "timestamp": [day * 86_400_000 + offset for offset in offsets],
        "timestamp_type": ["append"] * len(offsets),
        "key": [b"m-1", None] * (len(offsets) // 2),
        "value": [b"\x00\xff", b"{}"] * (len(offsets) // 2),
        "headers": [[{"key": "h", "value": b"v"}, {"key": "h", "value": None}], None]
        * (len(offsets) // 2),
    }


def write(root: Path, partition: int, begin: int, end: int) -> Segment | None:
    writer = Writer(root, TOPIC, partition, begin)
    writer.write(columns(range(begin, end)), end)
    return writer.finish()


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    writer = Writer(tmp_path, TOPIC, 3, 10)
    writer.write(columns(range(12, 16), day=20_000), 16)
    writer.write(columns(range(18, 20), day=20_000), 25)
    segment = writer.finish()
    assert segment is not None
    assert segment[:3] == (3, 10, 25)
    assert segment.path.parent.name == "date=2024-10-04"
    assert segments_of(tmp_path, TOPIC) == [segment]
    assert recorded_topics(tmp_path) == [TOPIC]
    (first, second) = read_batches([segment], 4)
    assert first.column("offset").to_pylist() == [12, 13, 14, 15]
    assert second.column("offset").to_pylist() == [18, 19]
    rows = second.to_pylist()
    assert [row["partition"] for row in rows] == [3, 3]
    assert [row["key"] for row in rows] == [b"m-1", None]
    assert rows[0]["value"] == b"\x00\xff"
    assert rows[0]["headers"] == [{"key": "h", "value": b"v"}, {"key": "h", "value": None}]
    assert rows[1]["headers"] is None
    assert first.column("timestamp").cast("int64").to_pylist()[0] == 20_000 * 86_400_000 + 12


def test_a_file_appears_only_when_it_is_finished(tmp_path: Path) -> None:
    writer = Writer(tmp_path, TOPIC, 0, 0)
    writer.write(columns(range(4)), 4)
    assert segments_of(tmp_path, TOPIC) == []
    writer.finish()
    assert [segment.end for segment in segments_of(tmp_path, TOPIC)] == [4]


def test_a_file_that_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    writer = Writer(tmp_path, TOPIC, 0, 0)
    writer.write(columns(range(4)), 4)
    writer.discard()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    writer = Writer(tmp_path, TOPIC, 0, 0)
    writer.write(columns(range(4)), 4)
    with Lock(tmp_path):
        assert not list(tmp_path.rglob("*.unfinished"))


def test_without_records_there_is_no_file(tmp_path: Path) -> None:
    writer = Writer(tmp_path, TOPIC, 0, 5)
    writer.write({name: [] for name in columns(range(0))}, 9)
    assert writer.finish() is None
    assert writer.end == 9


def test_positions_and_gaps_follow_from_the_names(tmp_path: Path) -> None:
    write(tmp_path, 0, 0, 10)
    write(tmp_path, 0, 10, 20)
    write(tmp_path, 0, 24, 30)
    write(tmp_path, 1, 4, 8)
    segments = segments_of(tmp_path, TOPIC)
    assert positions(segments) == {0: 30, 1: 8}
    assert gaps(segments) == [Gap(0, 20, 24)]


def test_files_that_overlap_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 0, 0, 10)
    write(tmp_path, 0, 8, 12)
    with pytest.raises(RecordingError, match="cover the same offsets"):
        segments_of(tmp_path, TOPIC)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    segment = write(tmp_path, 0, 0, 10)
    assert segment is not None
    segment.path.write_bytes(segment.path.read_bytes()[:-20])
    with pytest.raises(RecordingError, match=f"{segment.path.name} cannot be read"):
        list(read_batches([segment], 100))


def test_another_parquet_file_is_refused(tmp_path: Path) -> None:
    segment = write(tmp_path, 0, 0, 10)
    assert segment is not None
    pq.write_table(pq.read_table(segment.path, columns=["offset"]), segment.path)
    with pytest.raises(RecordingError, match="other columns than a recording"):
        list(read_batches([segment], 100))


def test_two_processes_do_not_record_into_one_folder(tmp_path: Path) -> None:
    with Lock(tmp_path), pytest.raises(RecordingError, match="another process is recording"):
        Lock(tmp_path)
    with Lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RecordingError, match="cannot be written: Not a directory"):
        Lock(tmp_path / "file" / "folder")


FILL = """
import os
import sys
from pathlib import Path

from tests.recording.test_files import TOPIC, columns
from worker.recording.files import unwritable
from worker.recording.writing import Writer

root = Path(sys.argv[1])
whole = Writer(root, TOPIC, 0, 0)
whole.write(columns(range(4)), 4)
whole.finish()
writer = Writer(root, TOPIC, 0, 4)
try:
    for begin in range(4, 400, 2):
        filling = {**columns(range(begin, begin + 2)), "value": [os.urandom(10_000)] * 2}
        writer.write(filling, begin + 2)
    writer.finish()
except OSError as error:
    print(unwritable(root, error))
finally:
    writer.discard()
"""


def test_where_nothing_can_be_written_any_more_what_was_finished_is_whole(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "cannot be written: File too large; what was finished is complete" in done.stdout
    (segment,) = segments_of(tmp_path, TOPIC)
    (batch,) = read_batches([segment], 100)
    assert batch.num_rows == 4
    assert not list(tmp_path.rglob("*.unfinished"))
