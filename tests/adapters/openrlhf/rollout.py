"""OpenRLHF's rollout actor with vLLM's CPU build.

Ray's workers import this module, and vLLM's own, in which nothing stands in for flash_attn.
"""

from typing import Any

import torch
import vllm.model_executor.layers.utils as layers
from openrlhf.trainer.ray.vllm_engine import RolloutRayActor
from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap

from .without_gpu import provide_communicator

EXTENSION = f"{__name__}.CPUWorkerWrap"
_RolloutRayActor: Any = RolloutRayActor.__ray_metadata__.modified_class.__ray_actor_class__


class CPURolloutRayActor(_RolloutRayActor):
    """Differs in the extension of vLLM's worker, whose name OpenRLHF does not let one choose."""

    async def __init__(self, *args: Any, **kwargs: Any) -> None:
        await super().__init__(*args, **(kwargs | {"worker_extension_cls": EXTENSION}))


class CPUWorkerWrap(WorkerWrap):
    """Differs in the device, which is "cuda" in its parent."""

    def init_process_group(self, *args: Any, **kwargs: Any) -> None:
        """As the parent's."""
        provide_communicator()
        super().init_process_group(*args, **kwargs)

    def update_weight(self, *args: Any, **kwargs: Any) -> None:
        """As the parent's, which makes a tensor and has the weight sent into it."""
        empty, stream = torch.empty, torch.cuda.current_stream
        torch.empty = lambda shape, dtype, device: empty(shape, dtype=dtype)
        torch.cuda.current_stream = lambda: None
        try:
            super().update_weight(*args, **kwargs)
        finally:
            torch.empty, torch.cuda.current_stream = empty, stream


def keep_weights(layer: Any, remove_weight: bool) -> None:
    """For vLLM's linear layers on a CPU: torch's function on their weight, which vLLM would pack once, after loading.

    OpenRLHF loads new weights and does not have them packed again.
    """
    layer.cpu_linear = torch.nn.functional.linear


layers.dispatch_cpu_unquantized_gemm = keep_weights
