"""Python processes that have imported what they need before they begin, alone or at work together.

Importing torch, transformers and Lightning takes seconds, more than most programs that tests run in processes of their
own. An `Interpreter` imports once and forks for each program: what one of them imports or sets, no other one sees.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "PYTHONWARNINGS": "ignore",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


class Interpreter:
    """A process that runs `imports`, and then programs in processes of their own.

    Args:
        imports: Python code. It must start no threads.
        environment: Variables besides those of this process, and of `ENVIRONMENT`.
    """

    def __init__(self, imports: str, **environment: str) -> None:
        command = [sys.executable, "-c", "from tests.processes import serve; serve()", imports]
        variables = os.environ | ENVIRONMENT | environment
        self.process = subprocess.Popen(
            command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def __enter__(self) -> Interpreter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def start(self, folder: Path, *programs: str) -> list[int]:
        """Runs Python programs at once and in `folder`, where the i-th one writes to `<i>.log`. Returns their ids."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([str(folder), *programs]) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def wait(self) -> list[int]:
        """Waits for the programs that were started, and returns their exit codes, negative for signals.

        They have all the time they need. When one of them fails, the others, which may wait for it, are ended.
        """
        return self._answer()

    def run(self, folder: Path, *programs: str) -> list[str]:
        """Runs programs at once until they have ended well, and returns what each of them wrote."""
        self.start(folder, *programs)
        codes = self.wait()
        texts = [(folder / f"{i}.log").read_text() for i in range(len(programs))]
        assert codes == [0] * len(codes), "\n\n".join(
            f"exit code {code}:\n{text[-5000:]}" for code, text in zip(codes, texts, strict=True)
        )
        return texts

    def _answer(self) -> list[int]:
        assert self.process.stdout is not None
        answer: list[int] = json.loads(self.process.stdout.readline())
        return answer


# --- the process of an Interpreter ---


def fork(program: str, log: str) -> int:
    """Runs a program in a process of its own, and returns the id of that."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if pid := os.fork():
        os.close(output)
        return pid
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.argv = ["-c"]
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
    sys.exit()


def wait(pids: list[int]) -> list[int]:
    codes: dict[int, int] = {}
    while len(codes) < len(pids):
        pid, status = os.wait()
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid] != 0:
            for other in set(pids) - codes.keys():
                os.kill(other, signal.SIGKILL)
    return [codes[pid] for pid in pids]


def serve() -> None:
    exec(sys.argv[1], {})
    gc.freeze()  # looking through all that was imported, as trainers do, takes 0.2 s a time
    for line in sys.stdin:
        folder, *programs = json.loads(line)
        os.chdir(folder)
        pids = [fork(program, f"{i}.log") for i, program in enumerate(programs)]
        print(json.dumps(pids), flush=True)
        print(json.dumps(wait(pids)), flush=True)
