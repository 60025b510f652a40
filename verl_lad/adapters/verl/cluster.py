"""Ask every node of a Ray cluster whether it has LAD, before any GPU is allocated.

verl loads plugins from each node's own environment, so a node without this package would find out only when it
computes its first loss, after a whole step of rollout: "Unsupported loss mode: lad".
"""

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

from verl_lad.adapters.verl import NAME
from verl_lad.version import __version__

logger = logging.getLogger(__name__)

ACCELERATORS = ("GPU", "NPU")
"""Ray's names of the resources that verl's trainer workers ask for. Only nodes that have some run the policy loss."""
ANSWER_SECONDS = 180.0
"""Time for a cold node to start a worker and import verl."""


@dataclass(frozen=True)
class Node:
    """Answer of one node of the cluster.

    Attributes:
        name: its address and the head of its Ray id.
        trains: whether it has accelerators, and so runs the policy loss.
        complaint: why LAD does not work there; None if it does.
        answered: whether the node answered within ANSWER_SECONDS.
    """

    name: str
    trains: bool
    complaint: str | None
    answered: bool = True


def _look(name: str, version: str) -> str | None:
    """Say why LAD does not work on the node that runs this, or None.

    Ray sends the function by value, since nothing of this package may be on the node: hence the imports inside.
    """
    import os
    import socket
    import sys

    where = f"{sys.executable} on {socket.gethostname()}"
    try:
        import verl  # loads the plugins
        from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
    except Exception as error:
        return f"`import verl` fails in {where}: {type(error).__name__}: {error}"
    if "verl_lad.adapters.verl.plugin" not in sys.modules:
        policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS")
        because = "" if policy is None else f" (or VERL_USE_EXTERNAL_PLUGINS={policy!r} keeps it out)"
        return f"verl {verl.__version__} finds no verl-lad in {where}{because}"
    theirs = sys.modules["verl_lad.version"].__version__
    if theirs != version:
        return f"verl-lad {theirs} in {where}, and {version} here"
    load_error = sys.modules["verl_lad.adapters.verl"].load_error
    if load_error is not None or name not in POLICY_LOSS_REGISTRY:
        return f"the plugin could not load in {where}: {load_error}"
    return None


def look_into_nodes() -> list[Node]:
    """Ask every living node of the cluster that this process is connected to, all at once.

    Returns:
        One Node each, in the order of ray.nodes().

    Raises:
        ray.exceptions.RaySystemError: if this process is not connected to a cluster.
    """
    import ray
    from ray.cloudpickle import register_pickle_by_value, unregister_pickle_by_value
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    import verl_lad.adapters.verl.cluster as this_module

    register_pickle_by_value(this_module)
    try:
        look = ray.remote(num_cpus=0, max_retries=0)(_look)
        alive: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"]]
        answers = {
            node["NodeID"]: look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(NAME, __version__)
            for node in alive
        }
        ray.wait(list(answers.values()), num_returns=len(answers), timeout=ANSWER_SECONDS)
    finally:
        unregister_pickle_by_value(this_module)
    nodes = []
    for node in alive:
        name = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        trains = any(node["Resources"].get(resource, 0) > 0 for resource in ACCELERATORS)
        answer = answers[node["NodeID"]]
        if not ray.wait([answer], timeout=0)[0]:
            ray.cancel(answer, force=True)
            nodes.append(Node(name, trains, f"no answer within {ANSWER_SECONDS:g} s", answered=False))
            continue
        try:
            nodes.append(Node(name, trains, ray.get(answer)))
        except RayError as error:  # its worker died, or its environment could not be made
            nodes.append(Node(name, trains, f"{type(error).__name__}: {error}"))
    return nodes


def require_lad_on_every_node() -> None:
    """Refuse a cluster of several nodes if one that trains lacks LAD, now or as soon as Ray is connected.

    verl's main_ppo resolves the settings before it connects to Ray, and then starts its task runner on any node, also
    on one that cannot resolve them.

    Raises:
        RuntimeError: naming the nodes, the causes and the remedy.
    """
    import ray

    if ray.is_initialized():
        _require_lad_on_every_node()
    else:
        _require_after_init()


@cache
def _require_after_init() -> None:
    """Have ray.init run the check, by Ray's own list of hooks that follow a connection; once a process."""
    from ray._private import worker

    worker._post_init_hooks.append(_require_lad_on_every_node)


@cache
def _require_lad_on_every_node() -> None:
    """Run the check in a connected process, once."""
    import ray

    if sum(node["Alive"] for node in ray.nodes()) < 2:
        return
    complaining = [node for node in look_into_nodes() if node.complaint is not None]
    fatal = [node for node in complaining if node.trains and node.answered]
    for node in complaining:
        if node not in fatal:
            logger.warning("verl-lad: node %s: %s", node.name, node.complaint)
    if fatal:
        listing = "".join(f"\n  node {node.name}: {node.complaint}" for node in fatal)
        raise RuntimeError(
            f"policy loss {NAME!r} is not on every node of the Ray cluster that has accelerators:{listing}\n"
            f"Run `pip install --no-deps verl-lad=={__version__}` in the environment of `ray start` on each of these "
            "nodes, start Ray there again, and see `verl-lad doctor --ray auto`."
        )
