"""The scripts as a user calls them."""

import importlib
import os
import shlex
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from .conftest import PROGRAMS, SOURCES, TRAINING_SETS, VALIDATION_SETS


def call(command: list[object], directory, **environment: str) -> subprocess.CompletedProcess[str]:
    # The offline switch and the endpoint of whoever runs the tests must not matter.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=directory,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("domain", VALIDATION_SETS)
def test_prepare_calls_every_program_and_decontaminates_against_all_validation_sets(domain, tmp_path):
    """PYTHON is replaced by a script that writes down its arguments, which are then carried out in this process."""
    recorder = tmp_path / "recorder"
    recorder.write_text('#!/bin/bash\nprintf "%q " "$@" >> calls\necho >> calls\n')
    recorder.chmod(0o755)
    script = PROGRAMS / f"prepare_{domain}.sh"
    called = call(["bash", script, "--limit", "2"], tmp_path, PYTHON=str(recorder), SOURCE_DIR=str(SOURCES))
    assert called.returncode == 0, called.stderr
    programs = []
    for line in (tmp_path / "calls").read_text().splitlines():
        program, *arguments = shlex.split(line)
        programs.append(program)
        name = program.removeprefix(f"{PROGRAMS}/").removesuffix(".py")
        arguments = [str(tmp_path / part) if part.startswith("data/") else part for part in arguments]
        assert importlib.import_module(name).main(arguments) == 0
    names = [*VALIDATION_SETS[domain], TRAINING_SETS[domain]]
    assert programs == [f"{PROGRAMS}/{name}.py" for name in names]
    output = tmp_path / "data" / domain
    made = {path.relative_to(output).as_posix() for path in output.rglob("*.parquet")}
    assert made == {f"val/{name}.parquet" for name in names[:-1]} | {f"train/{names[-1]}.parquet"}
    for part in ("--decontaminate", *(f"data/{domain}/val/{name}.parquet" for name in names[:-1])):
        assert part in shlex.split(line)


def test_a_program_runs_as_a_script_from_anywhere(tmp_path):
    command = [sys.executable, PROGRAMS / "minerva.py", "--output", "new/minerva.parquet"]
    called = call([*command, "--source", SOURCES / "minerva" / "test.jsonl"], tmp_path)
    assert called.returncode == 0, called.stderr
    assert pq.read_table(tmp_path / "new" / "minerva.parquet").num_rows == 3
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["minerva.parquet"]
    assert '"kept": 3' in called.stdout


@pytest.mark.parametrize(
    ("environment", "cause"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "ConnectError: [Errno 111] Connection refused"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}, "OfflineModeIsEnabled: Cannot reach"),
    ],
)
def test_an_unreachable_hub_is_one_message_with_the_manual_way_within_seconds(tmp_path, environment, cause):
    started = time.monotonic()
    call([sys.executable, PROGRAMS / "amc.py", "--help"], tmp_path)
    without_hub = time.monotonic()
    called = call([sys.executable, PROGRAMS / "amc.py", "--output", "x/amc.parquet"], tmp_path, **environment)
    assert time.monotonic() - without_hub < 60 + 5 * (without_hub - started)  # about one second more, when alone
    assert called.returncode == 1
    first, *rest = called.stderr.splitlines()
    assert first.startswith(f"error: amc: AI-MO/aimo-validation-amc cannot be read from the hub: {cause}")
    assert rest == [
        "  tried http://127.0.0.1:9/api/datasets/AI-MO/aimo-validation-amc/revision/main",
        "  By hand: where the hub can be reached,",
        "    hf download AI-MO/aimo-validation-amc --repo-type dataset --local-dir amc",
        "  copy the directory here and run this program again with",
        "    --source amc",
    ]
    assert list(tmp_path.iterdir()) == []
