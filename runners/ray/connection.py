"""The connection to Ray, a local one of our own or a running cluster: code shipped, signals kept, nothing printed."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import secrets
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray._private import worker as ray_worker
from ray.exceptions import TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeper.runners.device.scratch import scratch_folder, scratch_parent
from sweeper.values.errors import SweeperError, UsageError
from sweeper.values.home import may_write
from sweeper.values.machine import Machines, cpu_count, ray_node

OBJECT_STORE_BYTES = 80 * 2**20
"""Only small events pass through the store; Ray wants 75 MiB at least."""

LOOK_SECONDS = 5.0
"""Between two looks at which nodes there are."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a worker without a GPU of its own sees none
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints tables even at verbosity 0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune's would finish the running step first
    "TUNE_GLOBAL_CHECKPOINT_S": "1e12",  # the ledger is the only memory
    "TUNE_MAX_PENDING_TRIALS_PG": "1",  # as many as there is room for, once that is known
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
"""Read from the environment by Ray and Tune, here and in the workers."""


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Connected to Ray: as this process is already, else to `address`, else to a local Ray of our own.

    Workers get the package shipped and an empty working directory, so that neither the driver's directory nor
    anything in it is on their import path.
    """
    if ray.is_initialized():
        yield
        return
    settings = SETTINGS if address else SETTINGS | _own_token()
    with environment(settings), quiet(), scratch_folder(scratch_parent()) as scratch:
        empty = scratch / "empty"
        empty.mkdir()
        runtime_env = {
            "working_dir": str(empty),
            "py_modules": [_folder_of("sweeper")],
            "env_vars": SETTINGS,
        }
        local: dict[str, Any] = {
            "num_cpus": cpu_count(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": str(scratch),
        }
        try:
            with _interrupt_afterwards(), _refused(address):
                ray.init(
                    address=address or "local",
                    namespace="sweeper",
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    runtime_env=runtime_env,
                    **({} if address else local),
                )
            with _sigterm_interrupts():
                yield
        finally:
            with _interrupt_afterwards():
                ray.shutdown()


def _own_token() -> dict[str, str]:
    """For a Ray of our own in a home that can't be written: Ray would make itself a token there, and fail."""
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    kept = may_write(Path(os.path.expanduser("~/.ray")))
    return {} if named or kept else {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextlib.contextmanager
def _refused(address: str | None) -> Iterator[None]:
    """Say in one line that a cluster, which had answered a moment ago, doesn't take us."""
    try:
        yield
    except (ConnectionError, RuntimeError) as error:
        if address is None:
            raise
        why = str(error.__cause__ or error).strip().splitlines()[-1]
        raise UsageError(f"the Ray cluster at {address} can't be joined: {why}") from error


def machines() -> Machines:
    """The nodes of the Ray that this process is connected to."""
    return Machines(nodes=tuple(ray_node(node["Resources"]) for node in ray.nodes() if node["Alive"]))


class Room:
    """How many jobs the connected Ray has room for at once. Nodes come and go: it is looked at anew now and then."""

    def __init__(self, *, cpus: int, gpus: int) -> None:
        """UsageError where no node has room for one."""
        self._wanted = {"cpus": cpus, "gpus": gpus}
        self._look()

    def _look(self) -> None:
        now, self._seen = machines(), time.monotonic()
        self._rooms = now.room_by_kind(**self._wanted)
        self._jobs = now.room(**self._wanted)

    def forget(self) -> None:
        """Look anew when next asked: a node may just have been lost."""
        self._seen = -LOOK_SECONDS

    def _look_again(self) -> None:
        if time.monotonic() - self._seen > LOOK_SECONDS:
            with contextlib.suppress(UsageError):
                self._look()

    def jobs(self) -> int:
        """At least 1: where all such nodes are lost, a job waits for one."""
        self._look_again()
        return self._jobs

    def of_kind(self, kind: str) -> int:
        """How many of them on devices of a kind."""
        self._look_again()
        return self._rooms[kind]


def on_node(node_id: str, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
    """What `function` returns on a node of the cluster.

    TimeoutError where it takes longer or the node is lost (a node that was silent once isn't waited for again); else
    what Ray raises.
    """
    if node_id in _silent or not any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes()):
        raise TimeoutError(_LOST)
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    task = ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    try:
        return ray.get(task.remote(*arguments), timeout=seconds)
    except (TimeoutError, TaskUnschedulableError) as error:
        _silent.add(node_id)
        raise TimeoutError(f"no answer in {seconds:.0f} s" if isinstance(error, TimeoutError) else _LOST) from None


_LOST = "the node is lost"
_silent: set[str] = set()
"""Nodes that were asked for something in vain."""


def _folder_of(package: str) -> str:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SweeperError(f"the package {package} is not installed as a folder")
    return str(Path(next(iter(spec.submodule_search_locations))).absolute())


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM (a scheduler's, or `timeout`'s) ends a run as Ctrl-C does; Ray's own handler would dump its stack."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if callable(before) else signal.SIG_DFL)


@contextlib.contextmanager
def _interrupt_afterwards() -> Iterator[None]:
    """Ctrl-C waits for the end of the block: a Ray half started crashes when it is shut down. A second doesn't."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    came: list[int] = []

    def note(number: int, _: object) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """With these variables in this process' environment, put back afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing of Ray's own on the terminal: what matters comes back as events and errors."""
    logger = logging.getLogger("ray")
    level, show = logger.level, ray_worker.print_to_stdstream
    logger.setLevel(logging.CRITICAL)
    # Ray prints "A worker died or was killed" whatever log_to_driver says, and has no switch for it.
    ray_worker.print_to_stdstream = lambda *_, **__: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        ray_worker.print_to_stdstream = show
