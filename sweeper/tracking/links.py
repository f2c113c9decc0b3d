"""Links into MLflow's pages that show a study's trials at once. Speaks to a server over HTTP, without MLflow itself."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any
from urllib.parse import quote, urlencode

MOST = 20
"""Studies that are linked, the latest first."""
_SECONDS = 10.0


def wait_for(base: str, *, timeout: float) -> bool:
    """Whether a server answers at `base` within so many seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{base}/health", timeout=_SECONDS):
                return True
        except OSError:
            time.sleep(0.2)
    return False


def study_links(base: str) -> dict[str, str]:
    """By "study · profile", the link to its trials, of the studies that the server at `base` has; none on a failure."""
    try:
        experiments = _ask(base, "experiments/search", max_results=1000)["experiments"]
        parents = _ask(
            base, "runs/search", experiment_ids=[one["experiment_id"] for one in experiments], max_results=MOST,
            filter="tags.`sweeper.folder_id` LIKE '%'", order_by=["start_time DESC"],
        )["runs"]  # fmt: skip
    except (OSError, ValueError, KeyError):
        return {}
    links = {}
    for run in parents:
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
        profile = tags["sweeper.profile"]
        link = trials_link(base, run["info"]["experiment_id"], profile=profile)
        links[f"{tags['sweeper.study']} · {profile}"] = link
    return links


def trials_link(base: str, experiment_id: str, *, profile: str, charts: bool = False) -> str:
    """The page of a study's trials that have a loss, the lowest first; `charts` lays their curves over one another."""
    query = {
        "workflowType": "machine_learning",
        "searchFilter": f"metrics.val_loss > 0 and tags.`sweeper.profile` = '{profile}'",
        "orderByKey": "metrics.`val_loss`",
        "orderByAsc": "true",
        **({"compareRunsMode": "CHART"} if charts else {}),
    }
    return f"{base}/#/experiments/{experiment_id}/runs?{urlencode(query, quote_via=quote)}"


def _ask(base: str, path: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{base}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        found: dict[str, Any] = json.load(answer)
    return found
