"""Start Ray on this machine or join a cluster; a failure becomes an InputError of one line."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import auto_init_hook, parameter, ray_constants, services
from ray.job_config import JobConfig

from rollout.errors import InputError
from rollout.text.printable import one_line

__all__ = ["start", "starting"]

log = logging.getLogger("raft")

# a call to a cluster that has ended must fail; by default Ray would start another cluster
auto_init_hook.enable_auto_connect = False

# metadata only: samples are small, and weights travel through the run folder
_LOCAL_OBJECT_STORE_BYTES = 256 * 2**20
# actors have processes of their own: others that wait for tasks would only take the cores
_NO_SPARE_WORKERS = {"enable_worker_prestart": False, "prestart_worker_first_driver": False}
_CONNECT_SECONDS = 5
# how a client of gRPC begins, with an empty frame of settings; a server begins with such a frame
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4
# open files: with fewer Ray's processes die one after another; enough for a machine of many cores
_FEWEST_FILES, _ENOUGH_FILES = 512, 65_536
_LEAST_SPACE = 32 * 2**20  # in Ray's folder, for its logs


class _Beside:
    begun: Future[None] | None = None


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Start a cluster here in a thread, while other work goes on in the context.

    The first `start("local")` in the context takes this cluster. Ray's processes end with the
    thread that started them, so the cluster must not be used after the context.
    """
    with ThreadPoolExecutor(1, "ray") as thread:
        _Beside.begun = thread.submit(_start, "local")
        try:
            yield
        finally:
            left, _Beside.begun = _Beside.begun, None
            if left is not None and left.exception() is None:
                ray.shutdown()


def start(address: str) -> None:
    """Start a cluster here (`local`) or join the one at `address`.

    Raises:
        InputError: Ray does not start, or no cluster answers; the message says why.
    """
    begun = _Beside.begun
    if address == "local" and begun is not None:
        begun.result()
        _Beside.begun = None
    else:
        _start(address)


def _start(address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # zero GPUs asked for means none wanted, not "hide them": Ray's own new default
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local = address == "local"
    _allow_files()
    if local:
        _check_folder()
    logging.getLogger("ray").setLevel(logging.ERROR)
    if not local:
        address = _answering(address)
    try:
        _init(address)
    except Exception as error:  # Ray raises Exception itself
        if not local:
            raise _no_cluster(address) from error
        logs = f"{get_default_ray_temp_dir()}/session_latest/logs"
        problem = f"Ray does not start ({type(error).__name__}: {one_line(error)})"
        raise InputError("cluster", problem, f"see {logs}, or use address: inline") from error


def _init(address: str, attempts: int = 2) -> None:
    local = address == "local"
    try:
        with _own_signals(), _few_processes(local):
            ray.init(
                address=address,
                job_config=_JobConfig(),
                # only a cluster that starts here takes these two
                include_dashboard=False if local else None,
                object_store_memory=_LOCAL_OBJECT_STORE_BYTES if local else None,
                _system_config=_NO_SPARE_WORKERS if local else None,
                logging_level=logging.ERROR,
                log_to_driver=False,
                configure_logging=False,
            )
    except Exception as error:
        # a busy machine may need longer than the 30 s that Ray gives its own processes
        if attempts == 1 or "timed out" not in str(error):
            raise
        log.info("Ray has not started in time; trying once more")
        ray.shutdown()
        _init(address, attempts - 1)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's SIGTERM handler: Ray sets one of its own, which prints a back-trace."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    try:
        yield
    except SystemExit:  # raised by Ray's handler, on a SIGTERM meanwhile
        if callable(before):
            before(signal.SIGTERM, None)
        raise
    finally:
        if callable(before):
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _few_processes(local: bool) -> Iterator[None]:
    """Start a `local` cluster without the processes that one machine does not need.

    These are the autoscaler, the log monitor and the dashboard's server. `ray.init` has no option
    for them, and waits for that server to start even with `include_dashboard=False`.
    """
    theirs: Any = parameter, services
    plain, dashboard = theirs[0].RayParams, theirs[1].start_api_server
    if local:
        theirs[0].RayParams = partial(plain, no_monitor=True, include_log_monitor=False)
        theirs[1].start_api_server = lambda *_, **__: ("", None)
    try:
        yield
    finally:
        theirs[0].RayParams, theirs[1].start_api_server = plain, dashboard


class _JobConfig(JobConfig):
    """Ray's JobConfig, but one that adds nothing to the module search path of workers.

    Ray would put the working directory first, where a user's datasets.py would be taken for the
    library. Our path comes by PYTHONPATH, with that directory last (`worker_path`).
    """

    _py_driver_sys_path = property(lambda _: [], lambda _, paths: None)


def _allow_files() -> None:
    """Raise the limit of open files as far as is allowed. Raises InputError for less than 512."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_FILES)
    if resource.RLIM_INFINITY != soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < _FEWEST_FILES:
        raise InputError(
            "ulimit -n",
            f"is {allowed} open files, and Ray's processes need {_FEWEST_FILES} or more",
            "raise it, or set cluster.address: inline",
        )


def _check_folder() -> None:
    """Check that Ray can write its logs, and that the working directory's name is UTF-8.

    Raises InputError where Ray's folder is not writable or its disk full, and for another name, of
    which workers would die.
    """
    if os.getcwd() != os.getcwdb().decode(errors="replace"):
        where, fix = "the working directory", "rename it, or set cluster.address: inline"
        raise InputError(where, "has a name that Ray cannot write as UTF-8", fix)
    folder = Path(get_default_ray_temp_dir())
    there = next(one for one in (folder, *folder.parents) if one.is_dir())
    try:
        disk = os.statvfs(there)
        problem = "cannot be written to" if not os.access(there, os.W_OK | os.X_OK) else None
        if disk.f_bavail * disk.f_frsize < _LEAST_SPACE or (disk.f_files and not disk.f_favail):
            problem = "no space left on the disk"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if problem is not None:
        raise InputError(there, problem, "free some, or set RAY_TMPDIR to another folder")


def _answering(address: str) -> str:
    """Return the host:port of a cluster to join, once a gRPC server has answered there.

    Where none does, Ray itself would try for minutes.

    Raises:
        InputError: no server answers.
    """
    try:
        found = services.canonicalize_bootstrap_address(address)
    except (ConnectionError, ValueError) as error:
        raise _no_cluster(address) from error
    host, _, port = (found or "").rpartition(":")
    try:
        _greet(host.strip("[]"), int(port))
    except (OSError, ValueError) as error:
        raise _no_cluster(address if address == found else f"{found} ({address})") from error
    ray_constants.NUM_REDIS_GET_RETRIES = 1  # each takes half a minute where no Ray answers
    return str(found)


def _greet(host: str, port: int) -> None:
    """Check that a gRPC server answers at `host`:`port`. Raises OSError where none does.

    Of a server with TLS, only that it accepts a connection is checked.
    """
    with socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as server:
        if os.environ.get("RAY_USE_TLS", "0") in ("1", "true"):
            return  # the server would not understand a greeting without TLS
        server.sendall(_GREETING)
        head = b""
        while len(head) < 4:  # a frame's length, then its kind
            if not (more := server.recv(4 - len(head))):
                raise ConnectionError("the connection was closed")
            head += more
        if head[3] != _SETTINGS:
            raise ConnectionError("it speaks another protocol")


def _no_cluster(address: str) -> InputError:
    return InputError(
        "cluster.address",
        f"no Ray cluster answers at {address}",
        "start one with `ray start --head` or use local",
    )
