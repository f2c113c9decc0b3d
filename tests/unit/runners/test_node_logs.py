"""Logs that are handed over piece by piece: nothing twice, nothing lost but the middle of what is too long."""

import tempfile

from sweeper.runners.ray import node_logs
from sweeper.runners.ray.node_logs import MOST_BYTES, Piece
from sweeper.runners.training.job_run import log_path
from tests.fakes import make_job


def test_pieces_put_together_are_the_log(tmp_path):
    there, here = tmp_path / "there.log", tmp_path / "logs" / "here.log"
    end = 0
    for text in ("", "first\n", "ö"[:1], "", "last line without an end"):
        with there.open("a") as file:
            file.write(text)
        piece = node_logs.added(there, end)
        node_logs.keep(piece, here)
        end = piece.end
    assert here.read_bytes() == there.read_bytes()
    assert end == there.stat().st_size


def test_of_a_long_piece_the_end_is_handed_over(tmp_path):
    log = tmp_path / "job.log"
    log.write_bytes(b"start\n" + b"x" * MOST_BYTES + b"end")
    piece = node_logs.added(log, 6)
    assert piece.text == b"[3 bytes left out]\n" + b"x" * (MOST_BYTES - 3) + b"end"
    assert piece.end == log.stat().st_size
    assert node_logs.added(log, piece.end) == Piece(text=b"", end=piece.end)


def test_the_rest_is_taken_along_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    logs = [log_path(job, node_logs.folder_of("run", job)) for job in (make_job(1), make_job(1, attempt=2))]
    for log in logs:
        log.parent.mkdir(parents=True)
        log.write_text("told already, not yet")
    assert node_logs.rest("run", make_job(1), 14) == Piece(text=b"not yet", end=21)
    assert not logs[0].parent.exists()
    assert logs[1].exists()


def test_where_there_is_no_log_there_is_nothing_to_hand_over(tmp_path):
    assert node_logs.added(tmp_path / "none.log", 5) == Piece(text=b"", end=5)
