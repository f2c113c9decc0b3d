"""Links into MLflow's pages, with a server that answers as MLflow's does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from sweeper.tracking.links import study_links, wait_for


def parent(experiment: str, study: str, profile: str) -> dict[str, Any]:
    tags = {"sweeper.study": study, "sweeper.profile": profile, "sweeper.folder_id": "f"}
    return {
        "info": {"run_id": "r", "experiment_id": experiment},
        "data": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
    }


@pytest.fixture
def answers() -> dict[str, Any]:
    return {
        "experiments/search": {"experiments": [{"experiment_id": "7"}, {"experiment_id": "8"}]},
        "runs/search": {"runs": [parent("8", "wide", "cpu"), parent("7", "deep", "full"), parent("8", "wide", "cpu")]},
    }


@pytest.fixture
def base(answers: dict[str, Any]) -> Iterator[str]:
    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(answers[self.path.removeprefix("/api/2.0/mlflow/")])

        def _answer(self, found: dict[str, Any]) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_each_study_and_profile_has_one_link(base: str) -> None:
    assert wait_for(base, timeout=240)
    links = study_links(base)
    assert list(links) == ["wide · cpu", "deep · full"]
    page, _, query = urlsplit(links["deep · full"]).fragment.partition("?")
    assert page == "/experiments/7/runs"
    asked = parse_qs(query)
    assert asked["searchFilter"] == ["metrics.val_loss > 0 and tags.`sweeper.profile` = 'full'"]
    assert (asked["orderByKey"], asked["orderByAsc"]) == (["metrics.`val_loss`"], ["true"])


def test_a_store_without_studies_has_none(base: str, answers: dict[str, Any]) -> None:
    answers["runs/search"] = {}
    assert study_links(base) == {}
    answers["experiments/search"] = {}
    assert study_links(base) == {}


def test_a_server_that_is_not_there_has_none() -> None:
    assert not wait_for("http://127.0.0.1:9", timeout=0.3)
    assert study_links("http://127.0.0.1:9") == {}
