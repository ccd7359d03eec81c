"""Python processes that work together."""

import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path


def run_together(folder: Path, *commands: list[str], environment: Mapping[str, str]) -> list[str]:
    """Runs Python with each list of arguments, all at once and in `folder`, and returns what each of them wrote.

    They have all the time they need. When one of them fails, the others, which may wait for it, are ended.
    """
    logs = [folder / f"{i}.log" for i in range(len(commands))]
    processes = []
    for command, log in zip(commands, logs, strict=True):
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=folder, env=environment, stdout=output, stderr=output
            )
        processes.append(process)
    with ThreadPoolExecutor(len(processes)) as pool:
        try:
            for ended in as_completed([pool.submit(process.wait) for process in processes]):
                if ended.result() != 0:
                    break
        finally:
            for process in processes:
                process.kill()
    texts = [log.read_text() for log in logs]
    codes = [process.returncode for process in processes]
    assert codes == [0] * len(codes), "\n\n".join(
        f"exit code {c}:\n{t[-5000:]}" for c, t in zip(codes, texts, strict=True)
    )
    return texts
