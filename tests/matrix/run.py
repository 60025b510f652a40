"""`make matrix`: test_release.py with each supported release of verl; a table in markdown and in JSON.

Each release is installed without its dependencies into a directory of its own, which stands on PYTHONPATH before the
environment's verl. Before 0.9.0, which has no plugins, the checks run twice: with VERL_USE_EXTERNAL_MODULES, and
without it after `verl-lad patch apply`. Requirements that the environment does not meet are below it.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
RELEASES = ("0.7.1", "0.8.0", "0.9.0", "0.9.1")
CHECKS = {
    "registration": ("test_registration",),
    "composition": ("test_composition", "test_bad_settings", "test_the_bypass_mode"),
    "dataclasses": ("test_dataclasses",),
    "ppo_loss gradient": ("test_gradient",),
}
PLUGIN = "verl_lad.adapters.verl.plugin"


def install(release: str, directory: Path) -> None:
    """Puts verl of that release, and nothing else, into the directory, unless it is there."""
    if not (directory / f"verl-{release}.dist-info").is_dir():
        command = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(directory), f"verl=={release}"]
        subprocess.run([sys.executable, *command], check=True)


def unmet(directory: Path) -> list[str]:
    """The release's own requirements that the environment, which is the newest release's, does not meet."""
    (distribution,) = metadata.distributions(name="verl", path=[str(directory)])
    result = []
    for text in distribution.requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            try:
                version = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                version = "none"
            if version == "none" or not requirement.specifier.contains(version, prereleases=True):
                result.append(f"{requirement.name}{requirement.specifier} (has {version})")
    return sorted(result)


def patch(action: str, directory: Path) -> None:
    """`verl-lad patch ACTION` on the directory."""
    command = ["-m", "verl_lad.cli.main", "patch", action, "--target", str(directory)]
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT)


def check(directory: Path, junit: Path, modules: str | None) -> dict[str, str]:
    """Runs test_release.py; for each of CHECKS "12 passed", or "3 of 12 failed"."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VERL_USE_EXTERNAL")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    if modules is not None:
        environment["VERL_USE_EXTERNAL_MODULES"] = modules
    junit.unlink(missing_ok=True)
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={junit}", "tests/matrix/test_release.py"]
    subprocess.run([sys.executable, *command], env=environment, cwd=ROOT, timeout=1200, check=False)
    cases = list(ElementTree.parse(junit).iter("testcase"))
    results = {}
    for name, prefixes in CHECKS.items():
        ours = [case for case in cases if case.get("name", "").startswith(prefixes)]
        bad = sum(case.find(outcome) is not None for case in ours for outcome in ("failure", "error", "skipped"))
        results[name] = f"{len(ours)} passed" if ours and not bad else f"{bad} of {len(ours)} failed"
    return results


def main() -> int:
    """Installs, checks, prints and writes; exit status 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "matrix")
    output = parser.parse_args().output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    for release in RELEASES:
        directory = output / f"verl-{release}"
        install(release, directory)
        has_plugins = Version(release) >= Version("0.9.0")
        runs = [("entry point", None)] if has_plugins else [("VERL_USE_EXTERNAL_MODULES", PLUGIN), ("patched", None)]
        for found_by, modules in runs:
            if found_by == "patched":
                patch("apply", directory)
            try:
                results = check(directory, output / "junit.xml", modules)
            finally:
                if found_by == "patched":
                    patch("revert", directory)
            rows.append({"verl": release, "found_by": found_by, "results": results, "unmet": unmet(directory)})
    environment = {name: metadata.version(name) for name in ("torch", "tensordict", "hydra-core", "numpy", "ray")}
    record = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "verl_lad": metadata.version("verl-lad"),
        "python": platform.python_version(),
        "environment": environment,
        "rows": rows,
    }
    (output / "matrix.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [f"| verl | found by | {' | '.join(CHECKS)} |", "|---|---|" + "---|" * len(CHECKS)]
    lines += [f"| {row['verl']} | {row['found_by']} | {' | '.join(row['results'].values())} |" for row in rows]
    versions = ", ".join(f"{name} {version}" for name, version in environment.items())
    lines += ["", f"{record['date']}, verl-lad {record['verl_lad']}, Python {record['python']}, {versions}."]
    lines += [f"verl {row['verl']} asks for more: {', '.join(row['unmet'])}." for row in rows if row["unmet"]]
    text = "\n".join(dict.fromkeys(lines)) + "\n"
    (output / "matrix.md").write_text(text)
    print(text)
    return 1 if any("failed" in result for row in rows for result in row["results"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
