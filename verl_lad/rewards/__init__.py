"""Reward answers and programs through verl's `reward.custom_reward_function`, and confine model-written code.

    math.py         answers to mathematics problems; says which rule decides for each benchmark
    answers.py      compares the whole of two answers: text, numbers, structure, formulas
    notation.py     reads LaTeX and plain text
    formulas.py     asks math-verify about two formulas
    equivalence.py  processes in which that happens, and may be killed
    code.py         programs: all tests pass, or not; says with which evaluator each benchmark agrees
    sandbox.py      starts model-written programs, with limits, and refuses to where they would not be confined
    confined.py     runs inside: confines itself, then runs the program; nobody imports it

Point verl at one of them:

    reward.custom_reward_function.path=pkg://verl_lad.rewards.math
    +reward.custom_reward_function.reward_kwargs.time_limit=5      # keyword options of that compute_score

Both return the same keys: "score" (1.0 right, 0.0 wrong), "acc" (the same), "solution" (a label: two correct responses
with one label count as one solution in the diversity metrics) and "benchmark" (the data source). 0 and 1 rather than
DAPO's -1 and 1: LAD anchored to a reference reads score / eta on this scale.

This package knows nothing of LAD.
"""
