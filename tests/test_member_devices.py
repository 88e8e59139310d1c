"""Members dealt out to eight simulated devices: each runs its own, says what one device says, and asks the others nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DEVICES, MEMBERS, SOME = 8, 16, 13  # thirteen fill no multiple of the devices
STEPS = 4

# One process for all that is looked at: devices are counted once, when JAX starts.
PROGRAM = """
import json, re
import jax, jax.numpy as jnp, numpy as np
from helpers import PLAIN, SIZES, population
from mamba import ecosystem as eco, members as mem, objectives, placement
from mamba.algorithms import registry
from mamba.meta import derivatives, estimators, systems, vector
from mamba.rollout import rollout

DEVICES, MEMBERS, SOME, STEPS = {numbers}
collective = re.compile(r" = .*? (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\\(")


def collectives(program):
    return [found[1] for line in program.as_text().splitlines() if (found := collective.search(line))]


def rows_by_device(result):
    return {{shard.device.id: np.asarray(shard.data).tolist() for shard in result.addressable_shards}}


algorithms = {{"home": registry.make("engagement"), "takedown": registry.make("removal")}}
ecosystem = eco.make(algorithms, sizes=SIZES)
inputs = eco.inputs(ecosystem, population())
names = ecosystem.names

# Members differ in keys, in levers and, every fourth, in a gate.
keys = jax.random.split(jax.random.key(0), MEMBERS)
members = mem.repeat(ecosystem, inputs.levers, keys)
members = members._replace(
    levers=jax.tree.map(lambda x: x + 0.05 * jnp.arange(MEMBERS).reshape(-1, *[1] * (x.ndim - 1)), members.levers),
    gates=members.gates.at[::4, names.index("takedown")].set(0.0),
)
batch = mem.join(members, jax.tree.map(lambda leaf: leaf[:SOME], members))  # one chunk that is full, one that is not

made = mem.compiled(mem.evaluator(ecosystem, steps=STEPS), inputs, members, chunk=MEMBERS - 2)
seen = []


def watched(*given):
    seen.append(made.run(*given))
    return seen[-1]


values = mem.in_chunks(watched, inputs, batch, chunk=made.chunk)


@jax.jit
def alone(levers, gates, key):
    given = inputs.replace(levers=levers, gates=gates)
    return objectives.evaluate(rollout(ecosystem, given, key=key, steps=STEPS)[1], ecosystem.sizes.users)


each = [jax.tree.map(lambda leaf: leaf[n], members) for n in range(MEMBERS)]
one_by_one = [alone(one.levers, one.gates, one.keys) for one in each]

# The meta-gradient: S = 8 seeds, one on each device; with mechanisms that are quick to differentiate, which seeds do not see.
system = systems.platform(eco.make(algorithms, sizes=SIZES, mechanisms=PLAIN))
theta = np.asarray(vector.flat(inputs.levers))
rows = np.eye(len(system.outcomes))[:2]
shares = jnp.asarray(systems.everything_passes(system))
slopes, gradients, counted = {{}}, {{}}, {{}}
for how, spread in (("split", True), ("whole", False)):
    reverse = jax.jit(derivatives.reverse(system, steps=STEPS, segment=0, spread=spread))
    given = (inputs, jnp.asarray(theta), jnp.asarray(rows, jnp.float32), shares, keys[:DEVICES], None)
    program = reverse.lower(*given).compile()
    counted[how] = collectives(program)
    slopes[how] = program(*given)[1]
    path = estimators.pathwise(system, inputs, steps=STEPS, keys=DEVICES, slope=program)
    found = path.estimate(jax.random.key(1), theta, path.init(theta), rows)[0]
    gradients[how] = [found.jacobian.tolist(), found.error.tolist()]

print(json.dumps({{
    "devices": jax.local_device_count(),
    "member_devices": placement.member_devices(),
    "chunk": made.chunk,
    "collectives": collectives(made.run),
    "values": values.tolist(),
    "alone": [np.asarray(row).tolist() for row in one_by_one],
    "alone_on": len({{device for row in one_by_one for device in row.devices()}}),
    "rows": [rows_by_device(result) for result in seen],
    "gradient_collectives": counted,
    "gradients": gradients,
    "slopes": {{how: np.asarray(slope).tolist() for how, slope in slopes.items()}},
    "seeds_on": {{how: [len(rows) for rows in rows_by_device(slope).values()] for how, slope in slopes.items()}},
}}))
"""


@pytest.fixture(scope="module")
def found():
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(DEVICES),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
    }
    program = PROGRAM.format(numbers=(DEVICES, MEMBERS, SOME, STEPS))
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_every_device_gets_its_members(found):
    assert (found["devices"], found["member_devices"], found["chunk"]) == (DEVICES, DEVICES, MEMBERS)
    full, rest = found["rows"]
    alone = np.asarray(found["alone"])
    assert len(np.unique(alone.round(4), axis=0)) == MEMBERS  # no member can be taken for another
    for device in range(DEVICES):
        mine = [device, device + DEVICES]  # dealt out like cards
        np.testing.assert_allclose(full[str(device)], alone[mine], rtol=1e-6, atol=1e-6)
        wanted = np.where(np.less(mine, SOME)[:, None], alone[mine], 0.0)  # where none is wanted none is run
        np.testing.assert_allclose(rest[str(device)], wanted, rtol=1e-6, atol=1e-6)


def test_members_say_what_they_say_on_one_device_also_when_they_do_not_fill_all(found):
    assert found["alone_on"] == 1
    alone = found["alone"]
    np.testing.assert_allclose(found["values"], alone + alone[:SOME], rtol=1e-6, atol=1e-6)


def test_members_exchange_nothing(found):
    assert found["collectives"] == []


def test_the_meta_gradient_is_that_of_one_device_and_devices_exchange_nothing(found):
    """Slopes of seeds are averaged on the host, so not even the sum over devices is a collective."""
    assert found["seeds_on"] == {"split": [1] * DEVICES, "whole": [DEVICES]}
    assert found["gradient_collectives"] == {"split": [], "whole": []}
    split, whole = (np.asarray(found["slopes"][how]) for how in ("split", "whole"))
    assert np.ptp(whole, axis=0).min() > 1e-3 * np.abs(whole).max(axis=0).min() > 0  # seeds differ
    for found_, wanted in ((split, whole), *zip(*(found["gradients"][how] for how in ("split", "whole")), strict=True)):
        np.testing.assert_allclose(found_, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())
