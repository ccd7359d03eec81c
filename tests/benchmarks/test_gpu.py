"""`benchmarks/gpu.py`: the page that is written, whatever parts do; and all of it at tiny size (slow)."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import gpu

PRINTS = "print('| a | b |\\n|---|---|\\n| 1 | 2 |', flush=True)"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Runs parts that are programs of a line, and returns exit code and page."""

    def run(parts: dict[str, gpu.Part], *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(gpu, "PARTS", parts)
        code = gpu.main(["--device=cpu", f"--output={tmp_path}", *arguments])
        assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.log", "gpu.md"]
        return code, (tmp_path / "gpu.md").read_text(encoding="utf-8")

    return run


def part(program: str, limit: float = 20.0, least: float = 1.0) -> gpu.Part:
    return gpu.Part(f"Part {len(program)}", limit, least, ("-c", program))


def test_a_part_that_fails_does_not_stop_the_others(
    run: Callable[..., tuple[int, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing, working = part(f"{PRINTS}; raise RuntimeError('what went wrong')"), part("print('a curve')")
    code, page = run({"failing": failing, "working": working})
    assert code == 1
    head, first, second = page.split("\n## ")
    assert head.startswith("# One run on a GPU\n\n`python benchmarks/gpu.py --device=cpu ") and "torch 2." in head
    assert "\n| 1 | 2 |\n\n**Failed** with exit code 1 after " in first
    assert "```text\na curve\n```\n\nTook " in second
    assert "what went wrong" in (tmp_path / "gpu.log").read_text()
    assert f"Written to {tmp_path / 'gpu.md'}" in capsys.readouterr().out


def test_a_part_that_takes_too_long_is_stopped_with_what_it_started(
    run: Callable[..., tuple[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("child") / "pid"
    child = f"import subprocess as s, time; p = s.Popen(['sleep', '60']); open({str(file)!r}, 'w').write(str(p.pid))"
    code, page = run({"long": part(f"{child}; {PRINTS}; time.sleep(60)", limit=1.5)})
    assert code == 1 and "| 1 | 2 |\n\nStopped after its limit of 2 s." in page
    status = Path(f"/proc/{file.read_text()}/stat")
    for _ in range(100):  # the kernel takes a moment
        if not status.exists() or " Z " in status.read_text():
            break
        time.sleep(0.05)
    else:
        raise AssertionError("the child is still there")


def test_what_does_not_fit_into_the_time_is_named(run: Callable[..., tuple[int, str]]) -> None:
    code, page = run({"one": part("print(1)"), "two": part("print(22)", least=50.0)}, "--minutes=0.5")
    assert code == 0 and page.endswith("## Not run\n\nThe time was over before: Part 9.\n") and "## Part 8\n" in page


def test_parts_by_name(run: Callable[..., tuple[int, str]], capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"one": part("print(1)"), "two": part("print(22)")}
    assert "Part 8" not in run(parts, "two")[1]
    with pytest.raises(SystemExit):
        run(parts, "three")
    assert "no part is called three: one, two are" in capsys.readouterr().err


def test_without_a_gpu_nothing_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "gpu_name", lambda: "")
    assert gpu.main([f"--output={tmp_path / 'new'}"]) == 0
    assert capsys.readouterr().out == "No NVIDIA GPU here: nothing was run.\n" and not (tmp_path / "new").exists()


def test_this_python_is_used_if_its_torch_sees_the_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "torch_sees_gpu", lambda python: True)
    assert gpu.python_with_torch(tmp_path, deadline=0.0) == sys.executable


def test_an_environment_is_made_if_there_is_a_gpu_but_no_torch_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[list[str]] = []
    monkeypatch.setattr(gpu, "torch_sees_gpu", lambda python: bool(made))
    monkeypatch.setattr(gpu.subprocess, "run", lambda command, **kwargs: made.append(command))
    assert gpu.python_with_torch(tmp_path, deadline=time.monotonic() + 9) == str(tmp_path / "bin" / "python")
    assert made == [["make", "-C", str(gpu.ROOT), "install", f"VENV={tmp_path}", f"PYTHON={sys.executable}"]]


def test_every_part_has_a_script_and_the_time_for_what_matters_most() -> None:
    assert all((gpu.ROOT / part.arguments[0]).is_file() for part in gpu.PARTS.values())
    first = [gpu.PARTS[name] for name in ("device", "tests", "mlm", "perceiver-ar", "prefix", "decode")]
    rest = 9 * 60 - gpu.SPARE - sum(part.limit for part in first)
    assert list(gpu.PARTS)[:7] == ["device", "tests", "mlm", "perceiver-ar", "prefix", "decode", "copy"]
    assert rest > gpu.PARTS["copy"].least, "a training, even if all before it take all of their time"


@pytest.mark.slow
def test_all_of_it_at_tiny_size(tmp_path: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    parts = [name for name in gpu.PARTS if name != "compiled"]  # torch's compiler takes minutes
    assert gpu.main(["--device=cpu", "--tiny", f"--output={tmp_path}", *parts]) == 0
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if "failed" in line.lower()] == []
    assert page.count("\nTook ") == len(parts) and "In all: " in page
    assert "| forward, prefix 64 | plain |" in page and "64 positions, 8 latents" in page


@pytest.mark.parametrize("error, has_failed", [(ValueError("odd"), True), (torch.OutOfMemoryError("full"), False)])
def test_a_row_that_fails_fails_its_part_unless_memory_is_full(
    error: Exception, has_failed: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(gpu.ROOT / "benchmarks")
    from gpu_bench import Bench

    def fails() -> None:
        raise error

    bench = Bench("cpu", tiny=True)
    bench.rows("case", {"first": fails, "second": lambda: torch.ones(3).sum()})
    out, err = capsys.readouterr()
    first, second = out.splitlines()
    assert first.startswith(f"| case | first | failed: {type(error).__name__}: {error} |")
    cells = [cell.strip() for cell in second.split("|")[1:-1]]
    assert cells[:2] == ["case", "second"] and float(cells[2]) >= 0 and cells[4] == ""  # no ratio to what failed
    assert bench.has_failed == has_failed
    assert "in fails" in err and str(error) in err
