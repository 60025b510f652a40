"""The loss straight from its formula, by autograd: documentation that runs, and what proves the fast loss.

It overflows where exp(u) does, needs a few times the memory, and is meant for float64. Do not train with it.
"""

import torch
from torch import Tensor

from verl_lad.objective.config import LADConfig
from verl_lad.objective.divergences import get_divergence


def lad_loss_reference(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor, config: LADConfig | None = None
) -> Tensor:
    """Compute exp(u) f(exp(l - u)) in each token, by autograd. Arguments and shapes are those of `lad_loss`.

    Returns:
        (B, T) loss matrix, 0 where masked, in the type of log_prob. Its values are not centred: they exceed those of
        `lad_loss` by a term without theta (for js, 1/2 log 2 exp(u)). The gradients are the same.
    """
    config = config or LADConfig()
    mask = response_mask.bool()
    divergence = get_divergence(config.divergence, config.alpha)
    if advantages.dim() == 1:
        advantages = advantages.unsqueeze(-1)

    zero = torch.zeros((), dtype=log_prob.dtype, device=log_prob.device)
    l = torch.where(mask, log_prob, zero) - torch.where(mask, old_log_prob, zero)  # l_t, (B, T)
    A = torch.where(mask, advantages, zero)
    if config.ratio != "token":
        length = mask.sum(-1, keepdim=True).clamp(min=1)
        l = l.sum(-1, keepdim=True)
        A = A.sum(-1, keepdim=True) / length
        if config.ratio == "geometric":
            l = l / length
    u = divergence.saturate(A / config.eta, config.max_log_weight)
    # Beyond max_log_ratio, l and u are shifted together: rho is limited, while d = l - u and the derivative in l stay.
    beyond = (l - l.clamp(-config.max_log_ratio, config.max_log_ratio)).detach()
    l = l - beyond
    u = divergence.saturate(u - beyond, config.max_log_weight)

    if divergence.f is None:
        loss = divergence.value(l, u)
    else:
        loss = u.exp() * divergence.f((l - u).exp())
    if config.ratio == "sequence":
        # The response's value is spread over its tokens, while each token's own log-prob receives dL/dl whole: under
        # seq-mean-token-sum both the aggregate's value and its gradient are those of L. Autograd through l = sum_t l_t
        # sums the tokens' shares up to exactly that.
        loss = loss / length
    return torch.where(mask, loss, zero)
