"""LAD's loss from hidden states, inside a model's forward pass."""

import functools
from types import MethodType
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from trl.trainer.utils import maybe_gather_lm_head_ctx

from verl_lad.objective import lad_linear_loss

LOGIT_FACTORS = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
"""Keys of model configurations by which logits are multiplied or divided. TRL's add_fused_lm_head knows the same."""


def add_lad_head(model: Any, temperature: float) -> None:
    """Let `model(input_ids=..., attention_mask=..., lad_inputs={...})` return LAD's loss and no logits.

    lad_inputs are the arguments of `lad_linear_loss` from `labels` on, which are the last T tokens of input_ids. The
    loss is computed within the forward pass, so that wrappers of the model (FSDP, DDP, ZeRO, PEFT) work as for any
    other forward pass. The model then returns a dict of loss, log_prob (B, T) and diagnostics.

    Args:
        model: a PreTrainedModel for causal language modelling, before it is wrapped; its `forward` is replaced.
        temperature: divisor of the logits.

    Raises:
        ValueError: if the model scales its logits.
    """
    config = model.config.get_text_config()
    for key in LOGIT_FACTORS:
        factor = getattr(config, key, None)
        if factor not in (None, 1, 1.0):
            raise ValueError(f"lad_fused=True does not go with a model that scales its logits: its {key} is {factor}")
    softcap = getattr(config, "final_logit_softcapping", None)
    forward_before = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, lad_inputs: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        if lad_inputs is None:
            return forward_before(*args, **kwargs)
        hidden: Tensor = self.base_model(*args, **kwargs, use_cache=False).last_hidden_state
        hidden = hidden[:, -lad_inputs["labels"].shape[1] - 1 : -1]
        head = self.get_output_embeddings()  # looked up here: FSDP and PEFT replace it after this
        weight, bias = head.weight, getattr(head, "bias", None)
        if isinstance(weight, DTensor):
            weight, bias = weight.full_tensor(), None if bias is None else bias.full_tensor()
        with maybe_gather_lm_head_ctx(weight, bias):
            result = lad_linear_loss(hidden, weight, bias=bias, softcap=softcap, temperature=temperature, **lad_inputs)
        return {"loss": result.loss, "log_prob": result.log_prob, "diagnostics": result.diagnostics}

    model.forward = MethodType(forward, model)
