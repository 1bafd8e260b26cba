"""A few copies of this interpreter that work on bytes, where threads would fight over the interpreter lock.

    python -P -m backupctl.hosts.workers      tasks on standard input, answers on standard output, both pickled

One that was forked beforehand (`prepared`) does the same and has every module already.

A worker ends when its standard input does, so one whose parent was killed is gone as soon as its task is. Signals are the
parent's business. Tasks hold no state: everything a function needs is in its arguments, keys included (a pipe, never argv).
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import IO, Any, NoReturn, ParamSpec, Self, TypeVar

from backupctl.errors import UsageError
from backupctl.hosts.pipes import BUFFER_BYTES, widen

P = ParamSpec("P")
T = TypeVar("T")

_AHEAD = 2  # tasks a worker holds: the next one is there when it is done with the first
_MOST_PREPARED = 8  # where there are more processors, the others start when there is work for them
COUNT_VARIABLE = "BACKUPCTL_WORKERS"
_OUT_OF_MEMORY = 71  # a worker's status when it could not even take a task or give an answer


class WorkerDiedError(RuntimeError):
    """A worker ended in the middle of its work, with this status: -9 when it was killed, most likely by a kernel without
    memory. When it was refused memory itself, a MemoryError is the cause."""

    status = 0


def worker_count() -> int:
    """How many workers make sense: the processors we may use, or what $BACKUPCTL_WORKERS says (0: none, use threads).
    Raises UsageError when it says something else."""
    text = os.environ.get(COUNT_VARIABLE, "")
    if not text:
        return len(os.sched_getaffinity(0))
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"{COUNT_VARIABLE}={text} is no number of processes", next_step=f"unset {COUNT_VARIABLE}")
    return int(text)


_prepared: list[_Forked] = []


@contextmanager
def prepared(module: str) -> Iterator[None]:
    """Fork the workers that somebody will want within, with this module in them; those that nobody wanted end with it. Does
    nothing in a process with threads, which must not be torn in two: then workers start from nothing, which takes each of
    them a fifth of a second."""
    if threading.active_count() == 1:
        importlib.import_module(module)
        _prepared.extend(_Forked() for _ in range(min(_MOST_PREPARED, worker_count()) - len(_prepared)))
    try:
        yield
    finally:
        dismiss()


def dismiss() -> None:
    """End the prepared workers that nobody has wanted yet."""
    while _prepared:
        _prepared.pop().dismiss()


class Workers:
    """Runs functions in `count` processes, started when first needed. Thread-safe. Use as a context manager: leaving it
    normally waits for what was submitted, leaving it with an exception kills the workers."""

    def __init__(self, count: int | None = None) -> None:
        self.count = max(1, worker_count() if count is None else count)
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._guard = threading.Lock()
        self._outstanding = 0
        self._workers: list[_Worker] = []
        self._closed = False

    def submit(self, function: Callable[P, T], *arguments: P.args, **_: P.kwargs) -> Future[T]:
        """`function(*arguments)` in a worker. The function is one a module holds under its name; arguments and result can
        be pickled. What it raises comes out of the future; WorkerDiedError when its process was killed."""
        future: Future[T] = Future()
        with self._guard:
            if self._closed:
                raise RuntimeError("the workers are closed")
            self._outstanding += 1
            if self._outstanding > len(self._workers) and len(self._workers) < self.count:
                self._workers.append(_Worker(self._tasks, self._done))
        self._tasks.put((future, function, arguments))
        return future

    def _done(self) -> None:
        with self._guard:
            self._outstanding -= 1

    def close(self) -> None:
        """Finish what was submitted, then end the workers."""
        self._closed = True
        for _ in self._workers:
            self._tasks.put(None)
        for worker in self._workers:
            worker.wait()

    def kill(self) -> None:
        """End the workers now; what they have not answered fails with WorkerDiedError."""
        self._closed = True
        for worker in self._workers:
            worker.kill()
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()


class _Worker:
    """One process with two threads of ours: one hands it tasks, the other takes its answers. Neither ever waits for the
    other's pipe, so large tasks and large answers cannot block each other."""

    def __init__(
        self,
        tasks: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None],
        done: Callable[[], None],
    ) -> None:
        self._tasks = tasks
        self._done = done
        self._process = _prepared.pop() if _prepared else _fresh()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        for pipe in (self._stdin, self._stdout):
            widen(pipe)
        self._waiting: deque[Future[Any]] = deque()
        self._slots = threading.Semaphore(_AHEAD)
        self._dead = False
        self._sender = threading.Thread(target=self._send, name="to worker", daemon=True)
        self._receiver = threading.Thread(target=self._receive, name="from worker", daemon=True)
        self._sender.start()
        self._receiver.start()

    def _send(self) -> None:
        while True:
            self._slots.acquire()
            task = self._tasks.get()
            if task is None:
                break
            future, function, arguments = task
            if not future.set_running_or_notify_cancel():
                self._slots.release()
                self._done()
                continue
            self._waiting.append(future)
            if self._dead:  # looked at after the append: `_receive` has failed all it saw, this one may have come later
                self._fail_waiting()
                continue
            try:
                pickle.dump((function, arguments), self._stdin, protocol=5)
                self._stdin.flush()
                del arguments, task  # not held until the next one comes
            except OSError:  # it died: `_receive` sees the end of its answers and fails everything waiting
                continue
            except BaseException as error:  # noqa: BLE001 — what cannot be pickled is the caller's to know
                self.kill()
                self._answer(future, error)
        with suppress(OSError):
            self._stdin.close()

    def _receive(self) -> None:
        try:
            while True:
                ok, result = pickle.load(self._stdout)  # noqa: S301 — written by our own process
                future = self._waiting.popleft()
                self._slots.release()
                self._done()
                if ok:
                    future.set_result(result)
                else:
                    future.set_exception(result)
                del future, result  # not held until the next one comes
        except Exception as error:  # noqa: BLE001 — an answer that cannot be read must not leave anybody waiting
            self._dead = True
            self.kill()  # mostly it is gone already; when the program was replaced meanwhile it may well be there
            self._fail_waiting(None if isinstance(error, EOFError) else error)
        finally:
            self._stdout.close()

    def _fail_waiting(self, cause: Exception | None = None) -> None:
        status = self._process.wait()
        why = f"status {status}" if cause is None else f"{type(cause).__name__}: {cause}"
        if status == _OUT_OF_MEMORY:
            why, cause = "it was refused memory", MemoryError()
        while True:
            try:
                future = self._waiting.popleft()
            except IndexError:
                return
            self._slots.release()
            self._done()
            error = WorkerDiedError(f"a worker process ended in the middle of its work ({why})")
            error.__cause__ = cause
            error.status = status if cause is None else 0  # else it was we who ended it
            future.set_exception(error)

    def _answer(self, future: Future[Any], error: BaseException) -> None:
        with suppress(ValueError):
            self._waiting.remove(future)
            self._slots.release()
            self._done()
            future.set_exception(error)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()

    def wait(self) -> None:
        self._sender.join()
        self._receiver.join()
        self._process.wait()


def _fresh() -> subprocess.Popen[bytes]:
    # -P: a directory called backupctl in the current directory must not be taken for the program
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "backupctl.hosts.workers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=BUFFER_BYTES,
    )


class _Forked:
    """A worker made by fork; what is used of `Popen` of one that was started."""

    def __init__(self) -> None:
        tasks, to_worker = os.pipe()
        from_worker, answers = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _become_worker(tasks, answers)
        os.close(tasks)
        os.close(answers)
        self.stdin: IO[bytes] = os.fdopen(to_worker, "wb", buffering=BUFFER_BYTES)
        self.stdout: IO[bytes] = os.fdopen(from_worker, "rb", buffering=BUFFER_BYTES)
        self._guard = threading.Lock()
        self._status: int | None = None

    def dismiss(self) -> None:
        """End it; it has nothing to do."""
        for pipe in (self.stdin, self.stdout):
            pipe.close()
        self.wait()

    def kill(self) -> None:
        """Raises ProcessLookupError when it is no more."""
        with self._guard:
            if self._status is None:  # once waited for, the number may be somebody else's
                os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its status, negative for a signal."""
        with suppress(ChildProcessError):  # another thread waited too
            os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        with self._guard:
            if self._status is None:
                self._status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            return self._status


def _become_worker(tasks: int, answers: int) -> NoReturn:
    """The forked side. What we had open is the parent's: a pipe to another worker that we held open would keep that one
    alive, and the frames above us are never come back to."""
    try:
        gc.freeze()  # nothing of the parent's is taken down here
        _prepared.clear()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 — names alone
            if int(name) > 2 and int(name) not in (tasks, answers):
                with suppress(OSError):  # the one that this list was read by
                    os.close(int(name))
        _prepare_process()
        _work(os.fdopen(tasks, "rb", buffering=BUFFER_BYTES), os.fdopen(answers, "wb", buffering=BUFFER_BYTES))
        os._exit(0)
    except BaseException:  # noqa: BLE001 — nothing above us may run: that is the parent's
        traceback.print_exc()
    os._exit(1)


def main() -> None:
    """The worker's side."""
    answers = os.fdopen(os.dup(1), "wb", buffering=BUFFER_BYTES)
    _prepare_process()
    atexit.register(gc.freeze)  # as in `cli.main`
    _work(sys.stdin.buffer, answers)


def _prepare_process() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    gc.set_threshold(50_000, 50, 50)  # no cycles here either, see `cli.main`
    os.dup2(2, 1)  # whatever prints must not get between the answers


def _work(tasks: IO[bytes], answers: IO[bytes]) -> None:
    try:
        while True:
            try:
                function, arguments = pickle.load(tasks)  # noqa: S301 — written by our own process
            except EOFError:
                return
            answer: tuple[bool, Any]
            try:
                answer = True, function(*arguments)
            except Exception as error:  # noqa: BLE001 — the parent raises it where the result is asked for
                answer = False, _portable(error)
            del arguments
            pickle.dump(answer, answers, protocol=5)
            del answer  # not held until the next one is there
            answers.flush()
    except BrokenPipeError:
        os._exit(0)  # the parent is gone; nobody is left to tell
    except MemoryError:  # a task or an answer was cut off half way: what comes next in the pipe could not be understood
        os._exit(_OUT_OF_MEMORY)


def _portable(error: Exception) -> Exception:
    """The error itself when it survives pickling, else one that holds its traceback."""
    with suppress(Exception):  # whatever its constructor thinks of it: told below, as text
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 — our own bytes
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    return RuntimeError("".join(traceback.format_exception(error)))


if __name__ == "__main__":
    main()
