"""Results come in order, and processes end with their parent."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from perceiver.data.workers import AHEAD, map_ordered

ROOT = Path(__file__).parents[2]


def double(number: int) -> int:
    return 2 * number


def fail(bad: int, number: int) -> int:
    if number == bad:
        raise ValueError(f"{number} is bad")
    return number


def die(bad: int, number: int) -> int:
    if number == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("num_workers", [1, 3])
def test_order_and_errors(num_workers):
    assert list(map_ordered(double, range(20), num_workers)) == list(range(0, 40, 2))
    assert list(map_ordered(double, [], num_workers)) == []
    results = map_ordered(partial(fail, 5), range(20), num_workers)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="5 is bad"):
        next(results)


def test_few_items_are_taken_ahead():
    taken = []
    results = map_ordered(double, (taken.append(i) or i for i in range(100)), 2)
    for i in range(10):
        assert next(results) == 2 * i
        assert len(taken) == i + 2 * AHEAD
    results.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_worker_is_an_error():
    with pytest.raises(OSError, match="a preprocessing process was killed; its memory may have been too little"):
        list(map_ordered(partial(die, 3), range(9), 2))


ENDED = """
import os, sys, time
from pathlib import Path
from perceiver.data.cache import Cache
from perceiver.data.workers import map_ordered

def work(item):
    if item >= 3:
        if item == 3:
            os.write(1, b"ready")
        time.sleep(2)
    return item

def fill(work_dir, result):
    for item in map_ordered(work, range(4), 3):  # one of three has nothing to do at last
        pass
    time.sleep(3600)

Cache(sys.argv[1], lambda: {}, fill).prepare()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path, number):
    """Their output is a pipe that ends when the last process does that may write to it."""
    command = [sys.executable, "-c", ENDED, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"ready"
        process.send_signal(number)
        rest, errors = process.communicate()
    assert rest == b"" and b"Traceback" not in errors, errors.decode()
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM)
    assert len(list(tmp_path.iterdir())) == (number == signal.SIGKILL)
