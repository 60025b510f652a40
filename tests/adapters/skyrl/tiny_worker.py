"""SkyRL's own trainer and worker code, from the advantages to the gradient, around a table of log-probabilities."""

from types import SimpleNamespace

import torch
from skyrl.backends.skyrl_train.training_batch import TrainingInputBatch
from skyrl.backends.skyrl_train.workers.worker import PolicyWorkerBase
from skyrl.train.trainer import RayPPOTrainer

from verl_lad.adapters.skyrl.config import LADSkyRLTrainConfig
from verl_lad.adapters.skyrl.policy_loss import compute_policy_loss_lad
from verl_lad.adapters.skyrl.trainer import LADTrainer

B, T = 6, 5
LENGTHS = torch.tensor([[5], [4], [3], [5], [2], [1]])
MASK = (torch.arange(T) < LENGTHS).long()
MASK[3, 2] = 0  # as a tool's output within a response
PROMPTS = [(0, 2), (2, 5), (5, 6)]


def config(**keys) -> LADSkyRLTrainConfig:
    stock = {"use_kl_loss": False, "max_seq_len": 7}
    overrides = {f"trainer.algorithm.{key}": value for key, value in {**stock, **keys}.items()}
    return LADSkyRLTrainConfig.from_cli_overrides({"trainer.micro_train_batch_size_per_gpu": 2, **overrides})


class LogProbs(torch.nn.Module):
    """Row i of the table for the sequence that starts with token i; NaN where masked."""

    def __init__(self, table):
        super().__init__()
        self.table = torch.nn.Parameter(table)

    def forward(self, sequences, num_actions, **_):
        rows = sequences[:, 0] % B  # the rows that SkyRL pads with start with any token
        seen = torch.where(MASK[rows].bool(), self.table[rows], torch.nan)
        return seen, {"entropy": torch.zeros(sequences.shape)}


def trainer(cfg, cls: type[RayPPOTrainer] = LADTrainer) -> RayPPOTrainer:
    made = object.__new__(cls)
    made.cfg = cfg
    return made


def batch(generator) -> dict[str, torch.Tensor]:
    old = -torch.rand(B, T, generator=generator) - 0.5
    return {
        "log_prob": old + 0.3 * torch.randn(B, T, generator=generator),
        "action_log_probs": old,
        "rollout_logprobs": old + 0.2 * torch.randn(B, T, generator=generator),
        "advantages": torch.randn(B, 1, generator=generator).expand(B, T).clone(),
    }


def gradient(cfg, tensors, cls: type[RayPPOTrainer] = LADTrainer, max_tokens: int = -1):
    """One mini-batch through RayPPOTrainer._normalize_advantages and PolicyWorkerBase.forward_backward.

    Returns:
        (B, T) gradient of the table, and the metrics that the worker reports.
    """
    masked = MASK == 0
    data = TrainingInputBatch(
        {
            "sequences": torch.arange(B).unsqueeze(-1).expand(B, T + 1).clone(),
            "attention_mask": torch.cat([torch.ones(B, 1).long(), MASK], dim=-1),
            "loss_mask": MASK,
            "response_mask": MASK,
            **{
                name: tensors[name].masked_fill(masked, torch.nan)
                for name in ("action_log_probs", "rollout_logprobs", "advantages")
            },
        }
    )
    data.metadata = {"response_length": T}
    data = trainer(cfg, cls)._normalize_advantages(data, [(0, B)], PROMPTS)
    worker = object.__new__(PolicyWorkerBase)
    worker.cfg = cfg.trainer
    worker.cfg.max_tokens_per_microbatch = max_tokens
    worker.model = LogProbs(tensors["log_prob"].clone())
    worker.optimizer = None
    worker.policy_loss_fn = compute_policy_loss_lad
    worker.mesh_rank = SimpleNamespace(dp_size=1)
    worker.scheduler = SimpleNamespace(get_last_lr=lambda: [0.0])
    worker.device_mesh = SimpleNamespace(get_group=lambda _: None)
    worker.strategy = SimpleNamespace(
        backward=lambda loss, *_: loss.backward(), all_reduce=lambda metrics, **_: dict(metrics)
    )
    output = worker.forward_backward(data)
    return worker.model.table.grad, output.metrics
