"""Users split over eight simulated devices: the same numbers, each device with its part, and little to exchange."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest

from mamba.placement import SHARDS
from mamba.runs import folder, job
from mamba.runs.config import load_config
from mamba.runs.errors import UserError
from mamba.types import COUNTS, Sizes

ROOT = Path(__file__).parents[1]
DEVICES = 8
USERS, STEPS = 4096, 3
CREATORS, LIFETIME, CANDIDATES = 205, 24, 16
MOST = 45  # collectives of a step; 40 with jax 0.10, 31 with 0.12, most of a few numbers; metrics add sums of one number each

# One process for all that is looked at: devices are counted once, when JAX starts.
PROGRAM = """
import json, re
import jax, jax.numpy as jnp, numpy as np
from mamba import ecosystem as eco, placement
from mamba.algorithms import registry
from mamba.meta import derivatives, systems, vector
from mamba.rollout import rollout
from mamba.scenarios import populations
from mamba.scenarios.settings import ScenarioConfig

scenario = populations.load(ScenarioConfig(dataset="generated", users={users}, creators=0.05), seed=0)
algorithms = {{"home": registry.make("engagement"), "takedown": registry.make("removal")}}
ecosystem = eco.make(algorithms, sizes=scenario.sizes)
keys = jax.random.split(jax.random.key(0), 2)
collective = re.compile(r" = (.*?) (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\\(")


def measured():
    inputs = eco.inputs(ecosystem, placement.placed(scenario.population, {users}))
    one = jax.jit(lambda inputs, key: rollout(ecosystem, inputs, key=key, steps={steps})[0])
    program = one.lower(inputs, keys[0]).compile()
    state = program(inputs, keys[0])
    slope = None
    if {gradient}:
        system = systems.platform(ecosystem)
        shares = systems.everything_passes(system)
        row = jnp.zeros((1, len(system.outcomes))).at[0, 0].set(1.0)
        reverse = jax.jit(derivatives.reverse(system, steps={steps}))
        slope = np.asarray(reverse(inputs, vector.flat(inputs.levers), row, shares, keys)[1])[:, 0].tolist()
    found = [collective.search(line) for line in program.as_text().splitlines() if "while/body" in line]  # of every step
    moved = [[one[2], shape] for one in found if one for shape in re.findall(r"\\[([\\d,]*)\\]", one[1])]
    return {{
        "values": [np.asarray(leaf)[..., :500].ravel().tolist() for leaf in jax.tree.leaves(state.world.users)],
        "slope": slope,
        "bytes": program.memory_analysis().temp_size_in_bytes,
        "moved": moved,
        "spread": sorted({{len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state.world.users)}}),
        "part": state.world.users.opinion.addressable_shards[0].data.shape[1],
        "member_devices": placement.member_devices(),
    }}


alone = jax.local_devices()[:1]
with jax.default_device(alone[0]):
    whole = measured()
with placement.split_users():
    split = measured()
print(json.dumps([whole, split]))
"""


LIVES = """
import json
import jax, numpy as np
from mamba.runs import checkpoint, job, training
from mamba.runs.config import load_config

asked = ["shard=users", "meta.estimator=truncated", "meta.window=4", "scenario.dataset=generated", "scenario.users={users}"]
config = load_config("smoke", asked)
with job.devices(config):
    made = job.prepare(config)
    state = training.begun(made, training.trainer_of(made))
    checkpoint.save({folder!r}, 0, state, {{}}, keep=1)
    restored = checkpoint.latest({folder!r}, state).tree
    print(json.dumps([
        [len(leaf.sharding.device_set) for leaf in jax.tree.leaves(each) if {users} in np.shape(leaf)]
        for each in (state, restored)
    ]))
"""


def ran(program: str):
    """What a process with eight devices prints last."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(DEVICES),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def measured(*, gradient: bool):
    """What was found on one of eight devices, and with users split over all."""
    return ran(PROGRAM.format(users=USERS, steps=STEPS, gradient=gradient))


@pytest.fixture(scope="module")
def both():
    return measured(gradient=False)


def test_lives_that_training_follows_are_split_before_the_first_step_and_after_a_resume(tmp_path):
    begun, restored = ran(LIVES.format(users=320, folder=str(tmp_path / "checkpoints")))
    assert len(begun) > 10 and set(begun) == {DEVICES}
    assert restored == begun


def test_split_users_give_the_same_numbers(both):
    whole, split = both
    for found, wanted in zip(split["values"], whole["values"], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_every_device_has_its_part(both):
    whole, split = both
    assert (whole["spread"], whole["part"]) == ([1], USERS)
    assert (split["spread"], split["part"]) == ([DEVICES], USERS // DEVICES)
    assert split["bytes"] < 0.3 * whole["bytes"]  # on each; items and creators, few here, are whole on all of them
    assert (whole["member_devices"], split["member_devices"]) == (
        DEVICES,
        1,
    )  # members are dealt out over devices, or not


def test_collectives_are_few_and_small(both):
    whole, split = both
    assert whole["moved"] == []
    kinds = Counter(kind for kind, _ in split["moved"])
    assert set(kinds) <= {"all-gather", "all-reduce", "collective-permute"}
    assert sum(kinds.values()) <= MOST
    shapes = [[int(length) for length in shape.split(",") if length] for _, shape in split["moved"]]
    items = CREATORS * LIFETIME
    assert shapes.count([items, len(COUNTS)]) == 1  # what happened to items is summed once
    assert [CANDIDATES, USERS] not in shapes  # nothing of a feed leaves its device
    # Outboxes and ties of others are looked at, [U, 4] and [U, 16]: beside a feed of 3 kB a user that is little.
    assert sum(4 * math.prod(shape) for shape in shapes if shape[:1] != [items]) < 300 * USERS


@pytest.mark.slow
def test_split_users_give_the_same_gradient():
    whole, split = measured(gradient=True)
    np.testing.assert_allclose(split["slope"], whole["slope"], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_a_run_whose_users_are_split_finds_what_it_finds_otherwise(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    found = []
    for how in SHARDS:
        words = [
            "train",
            "smoke",
            f"--shard={how}",
            "--run_dir",
            str(tmp_path / how),
            "--scenario.users=60",
            "--steps=6",
        ]
        less = ["--second_order.seeds=0", "--log.wandb=disabled", "--meta.steps=2"]
        command = [sys.executable, "-m", "mamba", *words, *less]
        result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        objectives = folder.load_run(tmp_path / how).summary["objectives"]
        found.append({name: [each["before"]["mean"], each["after"]["mean"]] for name, each in objectives.items()})
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-3, atol=1e-5, err_msg=name)


def test_what_cannot_be_split_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: DEVICES)

    def refused(*overrides: str) -> str:
        config = load_config("smoke", ["--shard=users", *overrides])
        with pytest.raises(UserError) as error:
            job.platform(config, Sizes(users=config.scenario.users, creators=20, user_block=config.scenario.user_block))
        return str(error.value)

    assert (
        refused("--scenario.users=123")
        == "shard: 123 users cannot be split evenly over 8 devices; try --scenario.users=120"
    )
    assert refused("--scenario.users=5").endswith("try --shard=members")
    assert "not both" in refused("--scenario.user_block=8")
