"""What a running Ray cluster has for jobs, asked before anything connects to it.

Ray's own client waits most of a minute for an address that nobody answers at, and then some twenty times. So a helper
process of ours asks first, with a limit in seconds; this process imports no Ray for it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

from sweeper.values.errors import UsageError
from sweeper.values.machine import Machines, ray_node
from sweeper.values.paths import PACKAGE_PARENT

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 15.0
"""The helper's start, about a second where the machine is free, is part of it."""

_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from sweeper.runners.ray.survey import main; main(sys.argv[2])"
"""Finds this very package first, whatever the working directory holds."""


def survey(address: str) -> Machines:
    """The nodes of the Ray cluster at `address`: HOST:PORT of its head, or `auto` for the one on this machine.

    UsageError where the address isn't one, where nobody answers within seconds, where it wants a token, where its
    versions of Ray or Python are others, and where none of its nodes runs on this machine.
    A cluster with a node on this machine that asks for this user's token is shown it from now on, as Ray itself does
    for `auto`.
    """
    if address != "auto":
        _require_listener(address)
    said = _ask(address)
    if "fault" in said:
        raise UsageError(said["fault"])
    found = said["address"]
    if said["token"]:
        os.environ["RAY_AUTH_MODE"] = "token"
    nodes = tuple(map(ray_node, said["nodes"]))
    several = f" of {len(nodes)} nodes" if len(nodes) > 1 else ""
    return Machines(nodes=nodes, name=f"the Ray cluster{several} at {found}", address=found)


def _require_listener(address: str) -> None:
    if "://" in address:
        raise UsageError(
            f"--address {address}: Ray Client can't be used, as the study's driver has to be a part of the cluster: "
            "run sweeper on one of its nodes (the head, say) with --address auto"
        )
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UsageError(f"--address {address}: write auto, or HOST:PORT of the cluster's head, like 10.0.0.5:6379")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or error
        raise UsageError(
            f"--address {address}: nobody answers there ({why}): is the cluster up, and is this its head's port "
            "(6379 unless ray start said otherwise)?"
        ) from None


def _ask(address: str) -> dict[str, Any]:
    program = [sys.executable, "-c", _PROGRAM, str(PACKAGE_PARENT), address]
    try:
        ran = subprocess.run(
            program, capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS, check=False
        )
        said: dict[str, Any] = json.loads((ran.stdout.splitlines() or [""])[-1])
    except subprocess.TimeoutExpired:
        why = f"no answer in {ANSWER_SECONDS:.0f} s"
        raise UsageError(_NO_HEAD.format(address=address, why=why)) from None
    except ValueError:
        last = ran.stderr.strip().splitlines()[-1:] or [f"exit code {ran.returncode}"]
        raise UsageError(f"--address {address}: the cluster can't be asked for its nodes: {last[0]}") from None
    return said


def main(address: str) -> None:
    """Print what there is at `address` as a JSON object: its `nodes`, or a `fault`. May take long."""
    print("\n" + json.dumps(_look(address)), flush=True)


def _look(address: str) -> dict[str, Any]:
    from ray._private.services import find_node_ids
    from ray.exceptions import AuthenticationError, RpcError

    found = _running_here() if address == "auto" else address
    if found is None:
        return {"fault": "--address auto: no Ray runs on this machine: name the cluster's head as HOST:PORT"}
    try:
        try:
            alive, versions = _asked(found)
        except AuthenticationError:
            if not _shows_token(found):
                raise
            alive, versions = _asked(found)
    except AuthenticationError:
        return {"fault": _NO_TOKEN.format(address=found)}
    except RpcError as error:
        return {"fault": _NO_HEAD.format(address=address, why=str(error).splitlines()[0])}
    if fault := _other_versions(found, versions) or _stranger(found, alive, find_node_ids()):
        return {"fault": fault}
    nodes = [dict(node.resources_total) for node in alive.values()]
    return {"address": found, "nodes": nodes, "token": os.environ.get("RAY_AUTH_MODE") == "token"}


def _asked(address: str) -> tuple[dict[str, Any], Any]:
    """The living nodes by id, and the cluster's versions. Raises what Ray does."""
    from ray._common.usage.usage_lib import get_cluster_metadata
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    client = GcsClient(address=address)
    alive = {key.hex(): node for key, node in client.get_all_node_info().items() if node.state == node.ALIVE}
    return alive, get_cluster_metadata(client) or {}


def _shows_token(address: str) -> bool:
    """Have Ray show this user's token from now on, where there is one; whether it does.

    RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token; not where RAY_AUTH_MODE says otherwise. Only a
    cluster with a node on this machine is shown it: what listens at an address may be somebody else's.
    """
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    from ray._private.services import canonicalize_bootstrap_address, find_gcs_addresses

    here = canonicalize_bootstrap_address(address) in {
        canonicalize_bootstrap_address(one) for one in find_gcs_addresses()
    }
    return here and maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _running_here() -> str | None:
    """The address of a Ray on this machine, RAY_ADDRESS where that is set; its token is used then, where there is one.

    None where there is no Ray.
    """
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    from ray._private.services import canonicalize_bootstrap_address

    if not os.environ.get("RAY_ADDRESS"):
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        found: str | None = canonicalize_bootstrap_address("auto")
    except ConnectionError:
        return None
    return found


_NO_HEAD = (
    "--address {address}: what listens there isn't the head of a Ray cluster ({why}): "
    "name the head's port (6379 unless ray start said otherwise)"
)
_NO_TOKEN = (
    "the Ray cluster at {address} lets in only who has its token: set RAY_AUTH_MODE=token, and put the head's "
    "~/.ray/auth_token at the same place here, or its contents into RAY_AUTH_TOKEN"
)


def _other_versions(address: str, cluster: Any) -> str:
    """That the cluster's Ray or Python isn't ours, which Ray would refuse with a long story; "" where they are."""
    from ray._private.utils import check_version_info, compute_version_info

    try:
        check_version_info(cluster, "here") if cluster else None
    except RuntimeError:
        ray_version, python_version = compute_version_info()
        return (
            f"the Ray cluster at {address} has Ray {cluster['ray_version']} and Python {cluster['python_version']}, "
            f"this machine Ray {ray_version} and Python {python_version}: both have to be the same on all nodes"
        )
    return ""


def _stranger(address: str, alive: Any, here: Any) -> str:
    """That no node of the cluster runs on this machine, which a driver needs; "" where one does."""
    if set(here) & set(alive):
        return ""
    return (
        f"no node of the Ray cluster at {address} runs on this machine, and a driver has to be on one: run sweeper on "
        f"one of its nodes, or have this machine join: ray start --address={address} --num-cpus=0 --num-gpus=0"
    )
