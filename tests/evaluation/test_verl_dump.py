"""A validation dump by verl's own trainer and agent loop, with a dictionary for its TransferQueue and no model."""

import asyncio
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import NonTensorStack, TensorDict
from torch import nested

from verl_lad.evaluation import Validation, read_validation

pytest.importorskip("verl.trainer.ppo.v1")
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.v1 import agent_loop_tq, trainer_base
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

SESSIONS = 4
IMAGES = 6
"""Rows of the data with one text, as questions about images have; the truth of the even ones is the same."""


class Queue:
    """The calls of TransferQueue that a validation makes."""

    def __init__(self):
        self.rows = {}

    def kv_batch_put(self, keys, partition_id, tags): ...

    def kv_clear(self, keys, partition_id): ...

    async def async_kv_batch_put(self, keys, fields, tags, partition_id):
        self.rows |= dict(zip(keys, fields, strict=True))

    def kv_batch_get(self, keys, partition_id, select_fields):
        columns = {name: [self.rows[key][name] for key in keys] for name in select_fields if name in self.rows[keys[0]]}
        return TensorDict(
            {
                name: nested.as_nested_tensor(values, layout=torch.jagged)
                if isinstance(values[0], torch.Tensor) and values[0].ndim
                else NonTensorStack(*values)
                for name, values in columns.items()
            },
            batch_size=[len(keys)],
        )


class Tokenizer:
    pad_token_id = 0

    def decode(self, ids, skip_special_tokens):
        return " ".join(str(int(i)) for i in ids if i)


class Worker(agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class):
    """verl's agent loop worker, which was handed its turns by a model; a turn's prompt holds what the last one said."""

    def __init__(self, turns):
        self.turns = turns
        self.processor = None

    async def _compute_score(self, outputs, kwargs):
        right = float((kwargs["index"] + kwargs["session_id"]) % 2)
        outputs[-1].reward_score = right
        outputs[-1].extra_fields["reward_extra_info"] = {"acc": right, "benchmark": "images"}

    async def _compute_teacher_logprobs(self, output, **_): ...

    async def session(self, session_id, **row):
        outputs = [
            AgentLoopOutput(
                prompt_ids=[7, 7, *([100 * session_id + turn] if turn else [])],
                response_ids=[1000 + 10 * session_id + turn] * (turn + 1),
                response_mask=[1] * (turn + 1),
                metrics=AgentLoopMetrics(),
                num_turns=self.turns,
            )
            for turn in range(self.turns)
        ]
        await self._agent_loop_postprocess(outputs, validate=True, session_id=session_id, **row)


class AgentLoop(SimpleNamespace):
    """verl's manager, without Ray."""

    def generate_sequences(self, batch):
        rows = [{key: batch[key][i] for key in ("uid", "index", "reward_model", "data_source")} for i in range(IMAGES)]
        for row in rows:
            row |= {"index": int(row["index"]), "global_steps": 0}
            for session_id in range(SESSIONS):
                asyncio.run(self.worker.session(session_id, **row))


@pytest.fixture(params=[1, 3], ids=["one turn", "three turns"])
def validation(request, tmp_path, monkeypatch) -> Validation:
    queue = Queue()
    monkeypatch.setattr(agent_loop_tq, "tq", queue)
    monkeypatch.setattr(trainer_base, "tq", queue)
    monkeypatch.setattr(agent_loop_tq, "list_of_dict_to_tensordict", lambda rows: rows)

    trainer = object.__new__(PPOTrainerSync)
    trainer.config = OmegaConf.create(
        {
            "actor_rollout_ref": {"rollout": {"val_kwargs": {"n": SESSIONS}}},
            "trainer": {"log_val_generations": 0, "validation_data_dir": str(tmp_path)},
        }
    )
    trainer.global_steps = 0
    trainer.tokenizer = Tokenizer()
    truths = [{"ground_truth": "same" if i % 2 == 0 else str(i)} for i in range(IMAGES)]
    trainer.val_dataloader = [
        {
            "raw_prompt": np.array(["<image>Find x."] * IMAGES, dtype=object),
            "index": torch.arange(IMAGES),
            "reward_model": np.array(truths, dtype=object),
            "data_source": np.array(["images"] * IMAGES, dtype=object),
        }
    ]
    trainer.agent_loop_manager = AgentLoop(worker=Worker(request.param))
    trainer.replay_buffer = SimpleNamespace(
        sample=lambda **_: (SimpleNamespace(keys=list(queue.rows), partition_id="val"), {})
    )
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=[None])
    trainer._init_dump_executor()
    trainer._dump_futures = []
    metrics = trainer._validate()
    trainer._shutdown_dump_executor()
    assert metrics["val-core/images/acc/mean@4"] == 0.5
    return read_validation(tmp_path / "0.jsonl")


def test_the_problems_are_the_rows_of_the_data_and_the_samples_verls_sessions(validation):
    assert [(p.total, p.correct) for p in validation.benchmarks["images"].values()] == [(SESSIONS, 2)] * IMAGES


def test_the_uid_is_a_uuid_with_session_and_output_and_the_last_output_counts(validation, request):
    turns = 3 if "three" in request.node.name else 1
    entries = [json.loads(line) for line in validation.path.read_text().splitlines()]
    assert len(entries) == IMAGES * SESSIONS * turns
    uids = [re.fullmatch(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})_([0-3])_([0-2])", e["uid"]) for e in entries]
    assert len({uid[1] for uid in uids}) == IMAGES
    assert {uid[2] for uid in uids} == set("0123")
    assert {int(uid[3]) for uid in uids} == {len(e["output"].split()) - 1 for e in entries} == set(range(turns))
    assert {problem.length for problem in validation.benchmarks["images"].values()} == {turns}


def test_rows_that_only_their_uid_tells_apart_are_said(validation):
    assert list(validation.remarks) == ["copies"]
    assert validation.remarks["copies"].startswith("3 problems share input and truth with another one of another uid")
