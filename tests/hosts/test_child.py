"""Runs forked from a process that has its modules already: exit codes, output, signals, as if started anew."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading

from backupctl.hosts.child import may_fork


def program(text: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: forking the test run itself would tear its threads."""
    source = "import os, signal, sys\nfrom backupctl.hosts.child import ForkedChild, PassSignals, may_fork\n"
    return subprocess.run(
        [sys.executable, "-c", source + textwrap.dedent(text)],
        input="not for the child",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_exit_code_comes_back_and_nothing_is_printed_twice() -> None:
    done = program(
        """
        print("before")
        child = ForkedChild(lambda arguments: (print("in the child", arguments), sys.exit(3)), ["a", "b"])
        print("code", child.wait(), child.wait())
        """
    )
    assert done.stdout.splitlines() == ["before", "in the child ['a', 'b']", "code 3 3"]


def test_a_bug_in_the_child_shows_its_traceback_and_does_not_run_the_parents_code_twice() -> None:
    done = program("print('code', ForkedChild(lambda arguments: 1 // 0, []).wait())")
    assert done.stdout == "code 1\n"
    assert done.stderr.count("ZeroDivisionError") == 1


def test_a_killed_child_ends_in_128_plus_its_signal() -> None:
    done = program("print(ForkedChild(lambda arguments: os.kill(os.getpid(), signal.SIGKILL), []).wait())")
    assert done.stdout == "137\n"


def test_the_childs_standard_input_is_empty() -> None:
    done = program("print(ForkedChild(lambda arguments: sys.exit(len(os.read(0, 100))), []).wait())")
    assert done.stdout == "0\n"


def test_a_signal_to_the_parent_reaches_the_child() -> None:
    done = program(
        """
        def run(arguments):
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(9))
            os.kill(os.getppid(), signal.SIGTERM)
            signal.pause()

        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until we pass signals on
        def main(arguments):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            run(arguments)
        child = ForkedChild(main, [])
        with PassSignals(child):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            print(child.wait())
        """
    )
    assert done.stdout == "9\n", done.stderr


def test_with_another_thread_there_is_no_forking() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert not may_fork()
    finally:
        stop.set()
        thread.join()
