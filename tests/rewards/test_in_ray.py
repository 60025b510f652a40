"""Both reward functions as verl uses them: in a Ray actor, in the threads of its event loop's executor."""

import asyncio
import json
import sys

import psutil
import pytest
import ray
from omegaconf import OmegaConf
from verl.trainer.ppo.reward import get_custom_reward_fn


class Worker:
    """What verl's RewardLoopWorker and naive reward manager do with a synchronous function."""

    def __init__(self, module, options):
        function = {"path": f"pkg://verl_lad.rewards.{module}", "name": "compute_score", "reward_kwargs": options}
        self.compute_score = get_custom_reward_fn(OmegaConf.create({"reward": {"custom_reward_function": function}}))

    async def score(self, responses, **fields):
        loop = asyncio.get_running_loop()
        tasks = [
            loop.run_in_executor(None, lambda text=text: self.compute_score(solution_str=text, extra_info={}, **fields))
            for text in responses
        ]
        return [result["score"] for result in await asyncio.gather(*tasks)]

    def children(self):
        return [child.pid for child in psutil.Process().children(recursive=True)]


@pytest.fixture(scope="module")
def actors():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the actor's process does not find this file
    yield ray.remote(num_cpus=1)(Worker)
    ray.shutdown()


def test_verl_scores_programs_and_answers_in_an_actor_and_nothing_outlives_it(actors):
    code = actors.remote("code", {"time_limit": 10, "max_concurrent": 2})
    math = actors.remote("math", {"time_limit": 5})
    tests = json.dumps({"type": "stdin", "inputs": ["1"], "outputs": ["2"]})
    programs = ["```python\nprint(int(input()) + 1)\n```", "```python\nprint(1)\n```", "no program"] * 2
    scores = code.score.remote(programs, ground_truth=tests, data_source="deepcoder")
    roots = ["\\boxed{\\sqrt{4}/4}", "\\boxed{\\sqrt{4}/6}", "none"] * 2  # math-verify decides
    answers = math.score.remote(roots, ground_truth="0.5", data_source="amc")
    assert ray.get(scores, timeout=250) == [1.0, 0.0, 0.0] * 2
    assert ray.get(answers, timeout=250) == [1.0, 0.0, 0.0] * 2
    assert ray.get(code.children.remote()) == []
    workers = [psutil.Process(pid) for pid in ray.get(math.children.remote())]
    assert workers
    ray.kill(math)
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive
