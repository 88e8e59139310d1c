"""Sweep files: what is read, what is refused, which members come out."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mamba.runs.config import load_config, read_yaml
from mamba.runs.errors import UserError
from mamba.runs.sweeps import spec as specs

ROOT = Path(__file__).parents[3]
COMMAND = ["${env}", "mamba-eco", "simulate", "smoke", "${args}"]


def made(**changed):
    base = {"method": "grid", "parameters": {"seed": {"values": [0, 1]}}, "command": COMMAND}
    return specs.parse({**base, **changed}, name="made")


def test_a_grid_takes_every_combination_in_the_order_of_the_file():
    of = made(parameters={"seed": {"values": [3, 1]}, "steps": {"min": 4, "max": 6}, "chunk": {"value": 2}})
    members = specs.members(of, count=None, seed=0)
    assert [(each["seed"], each["steps"], each["chunk"]) for each in members] == [
        (3, 4, 2), (3, 5, 2), (3, 6, 2), (1, 4, 2), (1, 5, 2), (1, 6, 2),
    ]  # fmt: skip
    assert specs.members(of, count=2, seed=0) == members[:2]


def test_member_k_of_a_random_sweep_does_not_depend_on_how_many_there_are():
    of = made(method="random", parameters={"seed": {"values": [0, 1, 2]}, "x.y": {"min": 0.0, "max": 1.0}}, run_cap=20)
    members = specs.members(of, count=None, seed=4)
    assert len(members) == 20
    assert specs.members(of, count=7, seed=4) == members[:7]
    assert specs.members(of, count=7, seed=5) != members[:7]


# distribution, its numbers, share u, the quantile there
QUANTILES = [
    ({"min": 2.0, "max": 6.0}, 0.25, 3.0),
    ({"distribution": "uniform", "min": 2, "max": 6}, 0.25, 3.0),
    ({"distribution": "q_uniform", "min": 0, "max": 10, "q": 2.5}, 0.3, 2.5),
    ({"distribution": "log_uniform", "min": math.log(1), "max": math.log(100)}, 0.5, 10.0),
    ({"distribution": "log_uniform_values", "min": 1, "max": 100}, 0.5, 10.0),
    ({"distribution": "q_log_uniform_values", "min": 1, "max": 100, "q": 3}, 0.5, 9.0),
    ({"distribution": "inv_log_uniform", "min": 0, "max": math.log(100)}, 0.5, 0.1),
    ({"distribution": "inv_log_uniform_values", "min": 1, "max": 100}, 0.5, 10.0),
    ({"distribution": "normal", "mu": 3, "sigma": 2}, 0.8413447460685429, 5.0),
    ({"distribution": "log_normal", "mu": 1, "sigma": 2}, 0.5, math.e),
    ({"distribution": "beta", "a": 1, "b": 1}, 0.3, 0.3),
]


@pytest.mark.parametrize(("facts", "u", "value"), QUANTILES)
def test_distributions_mean_what_wandb_says(facts, u, value):
    of = made(method="random", parameters={"a.b": facts}, run_cap=1)
    assert of.parameters[0].quantile(u) == pytest.approx(value)


def test_finite_distributions_are_drawn_by_their_weights():
    of = made(
        method="random",
        parameters={"a": {"values": ["x", "y"], "probabilities": [0.9, 0.1]}, "b": {"min": 1, "max": 3}},
        run_cap=400,
    )
    members = specs.members(of, count=None, seed=0)
    share = np.mean([each["a"] == "x" for each in members])
    assert 0.85 < share < 0.95
    assert {each["b"] for each in members} == {1, 2, 3}


def test_nested_parameters_are_dotted_names():
    of = made(parameters={"meta": {"parameters": {"steps": {"values": [1]}, "optimizer": {"value": "sgd"}}}})
    assert [each.name for each in of.parameters] == ["meta.steps", "meta.optimizer"]


REFUSED = [
    ({"method": "genetic"}, "method: 'genetic' is not one of grid, random, bayes"),
    ({"methd": "grid"}, "methd: no such key. Did you mean 'method'?"),
    ({"method": "grid", "parameters": {"a.b": {"min": 0.0, "max": 1.0}}}, "a grid needs values"),
    ({"method": "bayes"}, "metric: method bayes needs one"),
    ({"metric": "loss"}, "metric: give {name:"),
    ({"metric": {"name": "x", "goal": "best"}}, "metric.goal: 'best'"),
    ({"parameters": {}}, "parameters: give the settings"),
    ({"parameters": {"a": 3}}, r"parameters.a: give {values"),
    ({"parameters": {"a": {"distribution": "unifrom", "min": 0, "max": 1}}}, "Did you mean 'uniform'"),
    ({"parameters": {"a": {"min": 0}}}, "needs max"),
    ({"parameters": {"a": {"values": []}}}, "at least one value"),
    ({"parameters": {"a": {"values": [1, 2], "probabilities": [0.5]}}}, "2 numbers"),
    ({"parameters": {"a": {"values": [1, 2], "probabilities": [0.5, 0.6]}}}, "add up to 1.1"),
    ({"parameters": {"a": {"min": 2.0, "max": 1.0}}}, "min = 2 must be below max = 1"),
    ({"parameters": {"a": {"distribution": "log_uniform_values", "min": 0, "max": 1}}}, "must be above 0"),
    ({"parameters": {"a": {"distribution": "log_uniform_values", "min": 2, "max": 2}}}, "a single value is {value: ...}"),
    ({"parameters": {"a": {"min": 3, "max": 2}}}, "min not above max"),
    ({"parameters": {"a": {"distribution": "q_log_uniform", "min": -1000, "max": 0}}}, "log_uniform takes exponents"),
    ({"parameters": {"a": {"distribution": "q_log_normal", "mu": -1000}}}, "of these numbers is not finite"),
    ({"parameters": {"a": {"distribution": "normal", "sigma": -1}}}, "sigma = -1 must be above 0"),
    ({"parameters": {"a": {"value": 1, "q": 2}}}, "constant has no 'q'"),
    ({"parameters": {"a": {"value": 1}, "a.b": {"value": 1}, "b": {"parameters": {"c": {"value": 1}}}, "b.c": {"value": 2}}},
     "b.c is given twice"),
    ({"parameters": {"a": {"distribution": "log_uniform", "min": 1, "max": 1000}}}, "log_uniform_values the values"),
    ({"parameters": {"a": {"distribution": ["x"]}}}, "no distribution is called"),
    ({"name": "my sweep"}, "name: 'my sweep' cannot"),
    ({"run_cap": 0}, "run_cap: 0 is not"),
    ({"name": "a/b"}, "name: 'a/b' cannot be the name of a folder"),
    ({"command": "mamba-eco train x"}, "command: is missing or no list"),
    ({"command": ["python", "train.py", "${args}"]}, "command: does not start mamba-eco"),
    ({"command": ["mamba-eco", "simulate", "smoke"]}, r'"\$\{args\}" is missing'),
    ({"command": ["mamba-eco", "report", "smoke", "${args}"]}, "one of simulate, train, run"),
    ({"command": ["mamba-eco", "train", "smoke", "--run_dir=x", "${args}"]}, "cannot be shared"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "words"), REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(changed, words):
    with pytest.raises(UserError, match=words) as caught:
        made(**changed)
    assert "Traceback" not in str(caught.value)


def test_every_error_is_told_at_once():
    with pytest.raises(UserError) as caught:
        made(method="x", run_cap=-1, metric=3)
    assert len(str(caught.value).splitlines()) == 3


def test_a_random_sweep_needs_a_number_of_members():
    of = made(method="random")
    with pytest.raises(UserError, match="run_cap in the file, or --count"):
        specs.members(of, count=None, seed=0)
    with pytest.raises(UserError, match="too many"):
        specs.members(of, count=10**6, seed=0)


def test_the_command_says_job_configuration_and_shared_settings():
    words = ["/usr/bin/env", "python3", "-m", "mamba", "train", "quickstart", "--meta.steps=3", "name=x", "${args}"]
    of = made(command=words)
    assert (of.job, of.source, of.fixed) == ("train", "quickstart", ("meta.steps=3", "name=x"))
    choice = {"meta.optimizer": "sgd", "seed": 4}
    assert specs.overrides(of, choice) == ["meta.steps=3", "name=x", "meta.optimizer=sgd", "seed=4"]
    assert made(command=[*words[:-1], "${args_no_hyphens}"]).fixed == of.fixed


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_sweeps_that_ship_can_be_run(file):
    of = specs.load(file)
    for choice in specs.members(of, count=2, seed=0):
        load_config(of.source, specs.overrides(of, choice))


SCHEMA_CHECK = """
import json, pathlib, sys, jsonschema, yaml
import importlib.util
where = pathlib.Path(importlib.util.find_spec("sweeps").origin).parent / "config" / "schema.json"
schema = json.loads(where.read_text())
for file in sys.argv[1:]:
    jsonschema.validate(yaml.safe_load(pathlib.Path(file).read_text()), schema)
    print(file, "fits")
"""


@pytest.mark.slow
def test_the_sweeps_that_ship_fit_wandbs_own_schema(tmp_path):
    """In an environment of its own: the package with the schema wants old libraries."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "sweeps==0.3.0"]
    needed = [python, "-m", "pip", "install", "-q", "jsonschema", "pyyaml"]
    if any(subprocess.run(words, capture_output=True).returncode for words in (install, needed)):
        pytest.skip("the package `sweeps` with wandb's schema cannot be installed here")
    files = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))
    assert files
    result = subprocess.run([python, "-c", SCHEMA_CHECK, *files], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("fits") == len(files)
    # The check can fail: a method that wandb does not know does not fit.
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(re.sub("method: .*", "method: genetic", files[0].read_text()))
    assert read_yaml(wrong.read_text())["method"] == "genetic"
    assert subprocess.run([python, "-c", SCHEMA_CHECK, wrong], capture_output=True).returncode != 0
