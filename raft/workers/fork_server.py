"""Worker processes forked from one that has the libraries loaded, on machines without GPUs.

Importing torch, vLLM and trl takes some 20 s of a core, and a run on a CPU has four processes that
need them. Ray starts a worker by a command (`py_executable` of its runtime environment). Here the
command runs this file, which asks a server (also run from this file) to fork itself, and waits for
the end of the fork. Ray knows a worker by the process that registers, not by the one that Ray
started. Where no server answers, the command becomes the plain Python that Ray would have started.

The server does not import Ray, which reads its settings when it is imported: the fork does.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["ForkServer", "shared_server", "worker_path"]

_STANDARD = (0, 1, 2)
_LENGTH = 4  # bytes of the number before a job that says how many bytes the job has


class ForkServer:
    """A process that workers are forked from; it ends when the process that made it ends.

    Args:
        environment: variables to set in it, since libraries read them when they are imported.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="raft-")
        self._path = os.path.join(self._folder.name, "forks")
        listening = socket.socket(socket.AF_UNIX)  # here, so that requests before its start wait
        listening.bind(self._path)
        listening.listen(256)
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, "--serve", str(listening.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
            start_new_session=True,  # so that Ctrl-C reaches the run alone, which ends its workers
            pass_fds=[listening.fileno()],
        )
        listening.close()
        self._asked: set[str] = set()

    def load(self, imports: Sequence[str]) -> None:
        """Tell the server to import `imports` in this order, without waiting until it has."""
        assert self._process.stdin is not None
        new = [one for one in imports if one not in self._asked]
        self._asked |= set(new)
        # a server that has died is no reason to fail: workers start without it
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("".join(f"{one}\n" for one in new).encode())
            self._process.stdin.flush()

    def command(self, imports: Sequence[str]) -> str:
        """Return the shell command that starts a worker in place of Python.

        The worker is forked once the server has imported `imports`.
        """
        own = [sys.executable, "-IS", __file__, self._path, ",".join(imports)]
        return shlex.join(own)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


def worker_path() -> list[str]:
    """Return the module search path of workers: this process's, with two folders moved to its end.

    These are the script's folder and the working directory. Python puts them first, where a user's
    types.py would end every worker. A folder that PYTHONPATH names is not moved.
    """
    script = getattr(sys.modules["__main__"], "__file__", None)
    users = [os.path.dirname(os.path.abspath(script))] if script else []
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    last = [path for path in dict.fromkeys([*users, os.getcwd()]) if path not in named]
    return [*(path for path in sys.path if path and path not in last), *last]


class _Shared:
    server: ForkServer | None = None
    holders = 0


@contextlib.contextmanager
def shared_server(imports: Sequence[str] = ()) -> Iterator[ForkServer | None]:
    """Hold the fork server of this process, which the first holder starts and the last one ends.

    The server imports `imports` in the background. Yields None on a machine with GPUs, where a
    library that is imported before the fork might already use them.
    """
    from raft.workers.inline_executor import machine_gpus

    if machine_gpus():
        yield None
        return
    if _Shared.server is None:
        from rollout.engines.environment import spin_count

        path = os.pathsep.join(worker_path())
        _Shared.server = ForkServer({"PYTHONPATH": path, "GOMP_SPINCOUNT": spin_count()})
    _Shared.holders += 1
    _Shared.server.load(imports)
    try:
        yield _Shared.server
    finally:
        _Shared.holders -= 1
        if not _Shared.holders:
            _Shared.server.close()
            _Shared.server = None


@dataclass(frozen=True)
class _Job:
    """A request to fork a worker, with what Ray gave the command: arguments, environment, …

    `standard` are the command's standard file descriptors; the exit code goes to `connection`.
    """

    connection: socket.socket
    standard: list[int]
    imports: list[str]
    arguments: list[str]
    environment: dict[str, str]
    folder: str


def _ask(path: str, imports: str, arguments: Sequence[str]) -> int:
    """Act as the command that Ray starts: have a worker forked and return its exit code.

    Become plain Python where no server answers at `path`; return 1 where the server ends early.
    """
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(path)
    except OSError:
        os.execv(sys.executable, [sys.executable, *arguments])
    socket.send_fds(server, [b"."], _STANDARD)
    wanted = imports.split(",") if imports else []
    job = json.dumps([wanted, list(arguments), dict(os.environ), os.getcwd()]).encode()
    server.sendall(len(job).to_bytes(_LENGTH, "big") + job)
    code = server.recv(1)
    return code[0] if code else 1


class _Server:
    """The server: it imports modules named on standard input and forks workers for its socket."""

    def __init__(self, listening: socket.socket) -> None:
        self._before = dict(os.environ)
        self._listening = listening
        self._ended, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakes)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._ready = selectors.DefaultSelector()
        for one in (0, self._listening, self._ended):
            self._ready.register(one, selectors.EVENT_READ)
        self._names: list[str] = []  # to be imported
        self._loaded: set[str] = set()
        self._jobs: list[_Job] = []
        self._workers: dict[int, socket.socket] = {}
        gc.disable()  # imports leave no garbage, and looking for it takes a fifth of their time

    def serve(self) -> _Job | None:
        """Import modules and fork workers until standard input ends, and return None then.

        In each forked process, return the job that it is to run.
        """
        while True:
            idle = not self._jobs and not self._names
            for key, _ in self._ready.select(None if idle else 0):
                if key.fd == 0:
                    told = os.read(0, 2**16)
                    if not told:
                        return None
                    self._names += told.decode().split()
                elif key.fd == self._ended:
                    self._reap()
                elif key.fileobj is self._listening:
                    self._jobs.append(_accepted(self._listening))
                else:  # the command has closed its connection: Ray has ended it
                    self._ready.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)
            ready = [job for job in self._jobs if self._loaded.issuperset(job.imports)]
            for job in ready:
                self._jobs.remove(job)
                if self._fork(job):
                    return job
            if not ready:
                self._import_next()

    def _import_next(self) -> None:
        wanted = [name for job in self._jobs for name in job.imports]
        name = next((one for one in (*self._names, *wanted) if one not in self._loaded), None)
        self._names = [one for one in self._names if one not in (name, *self._loaded)]
        if name is None:
            return
        self._loaded.add(name)
        module, _, function = name.partition(":")
        # the worker will import it again and report the error
        with contextlib.suppress(Exception):
            found = importlib.import_module(module)
            if function:
                getattr(found, function)()
        gc.freeze()  # so that garbage collection in a fork does not write to shared memory

    def _fork(self, job: _Job) -> bool:
        """Fork a process for `job`. Return whether this process is the fork."""
        worker = os.fork()
        if not worker:
            return True
        for one in job.standard:
            os.close(one)
        self._workers[worker] = job.connection
        self._ready.register(job.connection, selectors.EVENT_READ, worker)
        return False

    def _reap(self) -> None:
        os.read(self._ended, 1024)
        while self._workers:
            worker, status = os.waitpid(-1, os.WNOHANG)
            if not worker:
                return
            connection = self._workers.pop(worker)
            with contextlib.suppress(KeyError):
                self._ready.unregister(connection)
            with contextlib.suppress(OSError):
                connection.sendall(bytes([os.waitstatus_to_exitcode(status) & 255]))
            connection.close()

    def become(self, job: _Job) -> None:
        """Run the worker's script in the fork, as if Python had been started with its arguments."""
        os.setpgid(0, 0)  # Ray ends a worker with its group
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        gc.enable()
        for one, standard in zip(job.standard, _STANDARD, strict=True):
            os.dup2(one, standard)
            os.close(one)
        for connection in (*self._workers.values(), *(job.connection for job in self._jobs)):
            connection.close()
        job.connection.close()
        self._listening.close()
        self._ready.close()
        for name in self._before.keys() - job.environment.keys():
            os.environ.pop(name, None)
        os.environ.update(job.environment)
        os.chdir(job.folder)
        named = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
        sys.path[:] = [*named, *(one for one in sys.path if one not in named)]
        sys.argv = job.arguments
        # the number of threads: OpenMP has read it from the server's environment
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        runpy.run_path(job.arguments[0], run_name="__main__")


def _accepted(listening: socket.socket) -> _Job:
    connection, _ = listening.accept()
    _, standard, _, _ = socket.recv_fds(connection, 1, len(_STANDARD))
    length = int.from_bytes(connection.recv(_LENGTH, socket.MSG_WAITALL), "big")
    asked = json.loads(connection.recv(length, socket.MSG_WAITALL))
    return _Job(connection, standard, *asked)


def _main(first: str, second: str, *arguments: str) -> None:
    if first != "--serve":
        sys.exit(_ask(first, second, arguments))
    server = _Server(socket.socket(fileno=int(second)))
    job = server.serve()
    if job is None:
        os._exit(0)  # without exit handlers, in which libraries print what they leak
    server.become(job)


if __name__ == "__main__":
    _main(*sys.argv[1:])
