"""Configuration: reading, overriding, refusing with the remedy, writing back."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mamba.algorithms.registry import KINDS
from mamba.interactions.settings import InteractionsConfig
from mamba.meta.settings import MetaConfig
from mamba.objectives import OBJECTIVES
from mamba.runs.config import (
    SECTIONS,
    RunConfig,
    apply_overrides,
    config_digest,
    diff,
    dump_yaml,
    help_text,
    load_config,
    presets,
    read_yaml,
    resolve,
)
from mamba.runs.errors import UserError
from mamba.scenarios.settings import ScenarioConfig
from mamba.world.mechanisms import Mechanisms
from mamba.world.parameters import WorldParameters

BASE: dict[str, Any] = {
    "recommenders": {"home": {"kind": "engagement", "sharpness": 5}, "trending": {"kind": "popularity"}},
    "moderators": {"takedown": {"kind": "removal"}},
}


def overridden(*overrides: str, base: dict[str, Any] | None = None) -> RunConfig:
    errors: list[str] = []
    mapping = apply_overrides(BASE if base is None else base, overrides, errors)
    assert not errors, errors
    return resolve(mapping)


def refused(mapping: dict[str, Any], *overrides: str) -> list[str]:
    errors: list[str] = []
    mapping = apply_overrides(mapping, overrides, errors)
    try:
        resolve(mapping)
    except UserError as error:
        errors += str(error).splitlines()
    assert errors, "nothing was refused"
    return errors


def test_defaults_are_those_of_the_dataclasses_as_plain_instances() -> None:
    config = resolve(BASE)
    assert config.scenario == ScenarioConfig() and type(config.scenario) is ScenarioConfig
    assert config.meta == MetaConfig() and config.interactions == InteractionsConfig()
    assert config.mechanisms == Mechanisms() and config.parameters == WorldParameters()
    names = [(name, kind, type(settings)) for name, kind, settings in config.algorithms]
    assert names == [(name, kind, KINDS[kind].config) for name, kind, _ in names]
    assert [name for name, _, _ in names] == ["home", "trending", "takedown"]
    home = config.recommenders["home"].config
    assert home.sharpness == 5.0 and type(home.sharpness) is float and home.proposals == 2


def test_every_setting_of_every_class_is_declared_with_help() -> None:
    text = help_text()
    for cls in [*SECTIONS.values(), *(kind.config for kind in KINDS.values())]:
        for field in dataclasses.fields(cls):
            assert field.metadata["help"], f"{cls.__module__}.{field.name}"
            assert f"  {field.name} " in text


def test_presets_resolve_and_round_trip() -> None:
    assert {"quickstart", "smoke"} <= presets().keys()
    for name, path in presets().items():
        config = load_config(name)
        assert config == load_config(path) == load_config(f"configs/{name}.yaml")
        assert config.second_order.seeds and config.second_order.audit_seeds  # in the report of every training run
        text = dump_yaml(config)
        again = resolve(read_yaml(text))
        assert again == config and dump_yaml(again) == text and config_digest(again) == config_digest(config)
        assert diff(config, again) == []


def test_awkward_texts_and_numbers_round_trip() -> None:
    texts = ["3e-4", "None", "yes", "1_000", "a: b", "# x", "naïve", "0x1F", "2024-01-01", "1:30", "true", " x"]
    for text in texts:
        config = resolve({**BASE, "log": {"entity": text, "tags": texts}})
        assert resolve(read_yaml(dump_yaml(config))) == config
    for number in (1e-300, 0.1, 1 / 3, 1e22, 3e-4, 123456789.0):
        config = resolve({**BASE, "parameters": {"opinion_rate": number}})
        assert resolve(read_yaml(dump_yaml(config))).parameters.opinion_rate == number


def test_equal_settings_have_equal_digests_and_the_order_of_algorithms_counts() -> None:
    one = resolve({**BASE, "meta": {"minimise": {"polarisation": 1, "wellbeing": -1}}})
    two = resolve({"meta": {"minimise": {"wellbeing": -1.0, "polarisation": 1.0}}, **BASE})
    assert config_digest(one) == config_digest(two) and len(config_digest(one)) == 64
    turned = resolve({**BASE, "recommenders": dict(reversed(BASE["recommenders"].items()))})
    assert config_digest(turned) != config_digest(resolve(BASE))
    assert diff(resolve(BASE), turned) == ["recommenders: order home, trending -> trending, home"]


def test_a_kind_drops_no_setting_that_is_given_before_it() -> None:
    for order in (["sharpness=7", "kind=bridging"], ["kind=bridging", "sharpness=7"]):
        home = overridden(*(f"recommenders.home.{word}" for word in order)).recommenders["home"]
        assert home.kind == "bridging" and home.config.sharpness == 7.0
    # The last kind counts, and what an added algorithm is given does not come before it.
    home = overridden(*(f"recommenders.home.{word}" for word in ("kind=chronological", "sharpness=7", "kind=bridging")))
    assert home.recommenders["home"].config.sharpness == 7.0
    more = overridden(
        "recommenders.new={kind: engagement}", "recommenders.new.kind=bridging", "recommenders.new.sharpness=3"
    )
    assert more.recommenders["new"].kind == "bridging" and more.recommenders["new"].config.sharpness == 3.0
    # A kind may be named in a mapping, too; what empties or removes an algorithm stays where it is.
    home = overridden("recommenders.home.sharpness=7", "recommenders.home={kind: bridging}").recommenders["home"]
    assert home.kind == "bridging" and home.config.sharpness == 7.0
    home = overridden("recommenders.home={sharpness: 7}", "recommenders.home.kind=bridging").recommenders["home"]
    assert home.config.sharpness == 7.0
    given = [
        "recommenders.home.kind=chronological",
        "recommenders.home={kind: bridging}",
        "recommenders.home.kind=engagement",
    ]
    assert overridden(*given).recommenders["home"].kind == "engagement"
    home = overridden("recommenders.home.sharpness=7", "recommenders.home={}", "recommenders.home.kind=bridging")
    assert home.recommenders["home"].config.sharpness == 10.0
    assert "half_life" in refused(BASE, "recommenders.home.half_life=4", "recommenders.home.kind=bridging")[0]


def test_what_a_wandb_agent_writes_is_understood() -> None:
    agent = [
        "--meta.learning_rate=0.0003",
        "--log.entity=None",
        "--log.tags=['a', 'b']",
        "--steps=1000.0",
        "--meta.minimise={'polarisation': 2, 'trust': -1.0}",
        "--recommenders.home={'kind': 'two_tower', 'proposals': 4.0}",
    ]
    config = overridden(*agent)
    assert config.meta.learning_rate == 0.0003 and config.log.entity is None and config.log.tags == ("a", "b")
    assert config.steps == 1000 and type(config.steps) is int
    assert config.meta.minimise["polarisation"] == 2.0 and config.meta.minimise["trust"] == -1.0
    assert "toxic_exposure_per_user" in config.meta.minimise  # merged into the default
    assert config.recommenders["home"].kind == "two_tower" and config.recommenders["home"].config.proposals == 4


def test_overrides_come_in_three_shapes_and_the_last_one_wins() -> None:
    config = overridden("--meta.steps", "3", "seed=4", "--seed=5", "--recommenders.home.glitter", "-2", "steps=1e2")
    assert (config.meta.steps, config.seed, config.steps) == (3, 5, 100)
    assert config.recommenders["home"].config.glitter == -2.0


def test_overrides_of_algorithms() -> None:
    assert overridden("recommenders.home.sharpness=7").recommenders["home"].config.sharpness == 7
    # A new kind drops the settings of the old one; those given after it count.
    for words in (["recommenders.home.kind=chronological"], ["recommenders.home={kind: chronological}"]):
        assert overridden(*words).recommenders["home"].kind == "chronological"
    same = overridden("recommenders.home={kind: engagement, proposals: 3}").recommenders["home"].config
    assert (same.sharpness, same.proposals) == (5, 3)
    then = overridden("recommenders.home.kind=two_tower", "recommenders.home.width=4").recommenders["home"]
    assert then.config.width == 4
    added = overridden("recommenders.new={kind: popularity}", "recommenders.new.proposals=8")
    assert [name for name, _, _ in added.algorithms] == ["home", "trending", "new", "takedown"]
    removed = overridden("recommenders.home=None", "moderators={}")
    assert [name for name, _, _ in removed.algorithms] == ["trending"]


def test_overrides_of_free_names() -> None:
    assert overridden("meta.minimise.wellbeing=-1").meta.minimise == {**MetaConfig().minimise, "wellbeing": -1.0}
    assert "polarisation" not in overridden("meta.minimise.polarisation=None").meta.minimise
    assert overridden("meta.keep={}").meta.keep == {}


def test_overrides_leave_their_source_alone() -> None:
    base = {"recommenders": {"home": {"kind": "engagement"}}, "meta": {"minimise": {"trust": -1.0}}}
    overridden("recommenders.home.kind=popularity", "meta.minimise.polarisation=1", base=base)
    assert base == {"recommenders": {"home": {"kind": "engagement"}}, "meta": {"minimise": {"trust": -1.0}}}


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("meta.step=3", "meta.step: no such setting. Did you mean 'steps'?"),
        ("users=3", "users: no such setting. Did you mean 'scenario.users'?"),
        ("meta.seed=3", "meta.seed: no such setting. Did you mean 'seed' at the top level?"),
        ("scenari.users=3", "scenari: no such setting. Did you mean 'scenario'?"),
        (
            "scenario.users=-5",
            "scenario.users: -5 is below 0; give a whole number >= 0 "
            "(size of the connected part that is used; 0 uses everyone)",
        ),
        ("scenario.users=1.5", "scenario.users: 1.5 is not a whole number; give a whole number >= 0"),
        ("scenario.users=true", "scenario.users: True is a truth value; give a whole number"),
        ("scenario.users=many", "scenario.users: 'many' is a text; give a whole number"),
        ("scenario.users=None", "scenario.users: nothing was given; give a whole number"),
        ("scenario.users=[1]", "scenario.users: [1] is a list; give a whole number"),
        ("scenario.creators=yes", "scenario.creators: 'yes' is a text; give a number > 0 and <= 1"),
        ("scenario.creators=false", "scenario.creators: False is a truth value; give a number"),
        ("scenario.creators=0", "scenario.creators: 0 is not above 0; give a number > 0 and <= 1"),
        ("parameters.memory=1", "parameters.memory: 1 is not below 1; give a number >= 0 and < 1"),
        ("parameters.confidence=.nan", "parameters.confidence: nan is not finite"),
        ("parameters.confidence=1e999", "parameters.confidence: inf is not finite"),
        ("seed=3e9", "seed: 3000000000 is above 2147483647"),
        ("steps=1", "steps: 1 is below 2"),
        ("chunk=0", "chunk: 0 is below 1"),
        ("scenario.users=1", "scenario.users: 1 leaves nobody to follow; give at least 2, or 0 for everyone"),
        ("scenario.clean_edges=maybe", "scenario.clean_edges: 'maybe' is a text; give true or false"),
        (
            "parameters.check_delay=6.5",
            "parameters.check_delay: 6.5 is not a whole number below scenario.lifetime (24), so no item would ever be "
            "reviewed; give 0 to 23, or a longer scenario.lifetime",
        ),
        ("parameters.check_delay=24", "parameters.check_delay: 24 is not a whole number below scenario.lifetime (24)"),
        ("scenario.lifetime=6", "parameters.check_delay: 6 is not a whole number below scenario.lifetime (6)"),
        ("name=a/b", "name: 'a/b' cannot name a folder"),
        ("mechanisms.opinion=repulsiv", "mechanisms.opinion: 'repulsiv' is not known; give one of"),
        ("mechanisms.opinion=repulsiv", "Did you mean 'repulsive'?"),
        ("mechanisms.opinion=3", "mechanisms.opinion: 3 is a number; give one of"),
        ("log.wandb=ofline", "Did you mean 'offline'?"),
        ("log.tags=[1]", "log.tags.0: 1 is a number; give a text"),
        ("log.tags=a", "log.tags: 'a' is a text; give a list of texts"),
        ("log.project=a/b", "log.project: 'a/b' cannot name a wandb project"),
        ("meta.minimise.polarization=1", "meta.minimise.polarization: no such objective. Did you mean 'polarisation'?"),
        ("meta.keep.engagement=1", "meta.keep.engagement: no such objective."),
        ("meta.keep.trust=much", "meta.keep.trust: 'much' is a text; give a number"),
        ("meta.keep=3", "meta.keep: 3 is a number; give names with numbers"),
        ("meta.minimise={}", "meta.minimise: nothing to train for"),
        ("interactions.seeds=1", "interactions.seeds: 1 gives no interval"),
        ("meta=3", "meta: 3 is a number; give settings"),
        ("meta.steps.x=3", "meta.steps: {'x': 3} is a mapping; give a whole number >= 0"),
        ("recommenders.hom.sharpness=2", "no recommender is called 'hom'. Did you mean 'home'? Known: home, trending"),
        ("recommenders.hom=None", "no recommender is called 'hom'. Did you mean 'home'?"),
        ("moderators.x={threshold: 1}", "moderators.x: no moderator is called 'x'. Known: takedown"),
        ("recommenders.home.sharpnes=2", "recommenders.home.sharpnes: no such setting. Did you mean 'sharpness'?"),
        ("recommenders.home.sharpness=20", "recommenders.home.sharpness: 20 is not below 20"),
        ("recommenders.home.kind=engagment", "no kind is called 'engagment'. Did you mean 'engagement'?"),
        ("recommenders.home.kind=3", "recommenders.home.kind: no kind is called 3. Known: constant, chronological"),
        ("recommenders.home.kind=removal", "recommenders.home.kind: 'removal' is a moderator; move it to moderators"),
        ("recommenders.Home={kind: popularity}", "recommenders.Home: cannot be a name; use at most 40 of a-z"),
        ("moderators.home={kind: removal}", "moderators.home: a recommender has this name too"),
        ("recommenders=[]", "recommenders: [] is a list; give them by name"),
        ("foo", "'foo' is not an override; write section.name=value"),
        ("--meta.steps", "meta.steps: no value was given; write --meta.steps=VALUE"),
        ("a..b=3", "a..b: is not a name of a setting"),
        ("log.entity=[1,", "log.entity: cannot read '[1,'"),
        ("meta.keep={1: 2}", "meta.keep: 1 cannot be a name"),
        ("meta={steps: 1, steps: 2}", "meta: 'steps' is given twice"),
        ("steps=" + "9" * 5000, "steps: inf is not a whole number; give a whole number >= 2"),
    ],
)
def test_refusals_name_the_setting_the_value_and_the_remedy(override: str, line: str) -> None:
    errors = refused(BASE, override)
    assert any(line in error for error in errors), errors


def test_the_chunk_is_of_every_stage() -> None:
    assert resolve(BASE).chunk == 16 and overridden("chunk=4").chunk == 4
    assert overridden("scenario.lifetime=7", "parameters.check_delay=6.0").scenario.lifetime == 7


def test_all_errors_come_at_once() -> None:
    errors = refused(BASE, "meta.step=3", "scenario.users=-5", "recommenders.hom.x=1", "moderators.takedown.speed=2")
    assert len(errors) == 4
    assert [error.split(":")[0] for error in sorted(errors)] == [
        "meta.step",
        "moderators.takedown.speed",
        "recommenders.hom.x",
        "scenario.users",
    ]


def test_a_configuration_without_algorithms_is_refused() -> None:
    assert "recommenders: there is no algorithm" in refused({})[0]


def test_the_factorial_has_a_limit() -> None:
    many = {"recommenders": {f"r{i}": {"kind": "popularity"} for i in range(17)}}
    assert "with 17 algorithms; give 0 to skip the analysis, or at most 16 algorithms" in refused(many)[0]
    assert len(resolve({**many, "interactions": {"seeds": 0}}).algorithms) == 17


def test_objectives_can_be_given() -> None:
    meta = {"meta": {"minimise": {"mine": 1}, "keep": {}}}
    assert resolve({**BASE, **meta}, objectives=["mine"]).meta.minimise == {"mine": 1.0}
    assert set(MetaConfig().minimise) | set(MetaConfig().keep) <= OBJECTIVES.keys()


def test_yaml_scalars() -> None:
    text = "{a: 3e-4, b: 1e6, c: yes, d: no, e: on, f: off, g: 010, h: None, i: 1:30, j: 2024-01-01, k: .5, l: -1_000}"
    assert read_yaml(text) == {
        "a": 3e-4, "b": 1e6, "c": "yes", "d": "no", "e": "on", "f": "off", "g": 10, "h": None, "i": "1:30",
        "j": "2024-01-01", "k": 0.5, "l": -1000,
    }  # fmt: skip
    assert read_yaml("") == {} and read_yaml("on: 1") == {"on": 1}
    assert read_yaml("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}")["d"] == {"b": 1, "c": 3}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3: 'a' is given twice"),
        ("meta:\n\tsteps: 1\n", "x.yaml:2: a tab cannot indent YAML; use spaces"),
        ("a: [1, 2\nb: 3\n", "x.yaml:2: this is not YAML"),
        ("a: b: c\n", "x.yaml:1: this is not YAML"),
        ("1: 2\n", "x.yaml:1: 1 cannot be a name"),
        ("a: !!python/object:os.system x\n", "x.yaml:1: this is not YAML"),
        ("a: 1\nb: \x01\n", "x.yaml:2: character"),
        ("- a\n- b\n", "x.yaml: holds a list; the top level must be a mapping"),
        ("just text", "x.yaml: holds a text"),
    ],
)
def test_yaml_that_cannot_be_used(text: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        read_yaml(text, name="x.yaml")
    assert line in str(error.value) and "\n" not in str(error.value)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file or preset is called 'quikstart'\. Did you mean 'quickstart'\?"):
        load_config("quikstart")
    with pytest.raises(UserError, match="is a folder; give a YAML file"):
        load_config(tmp_path)
    (tmp_path / "config.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(UserError, match=r"is a folder; give its file .*config\.yaml"):
        load_config(tmp_path)
    with pytest.raises(UserError, match="is not UTF-8 text"):
        load_config(tmp_path / "config.yaml")


def test_errors_of_a_file_and_of_overrides_come_together(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("recommenders: {home: {kind: engagement}}\nmeta: {step: 3}\n")
    with pytest.raises(UserError) as error:
        load_config(path, ["nonsense", "--seed=-1"])
    assert len(str(error.value).splitlines()) == 3
    path.write_text("recommenders: {home: {kind: engagement}}\nmeta:\nmoderators:\n")
    assert load_config(path, ["meta.steps=2", "moderators.x={kind: removal}"]).meta.steps == 2


def test_diff_says_what_changed() -> None:
    before = resolve(BASE)
    after = overridden("meta.steps=40", "moderators.takedown=None", "recommenders.home.sharpness=6")
    lines = diff(before, after)
    assert "meta.steps: 30 -> 40" in lines and "recommenders.home.sharpness: 5.0 -> 6.0" in lines
    assert "moderators.takedown.kind: 'removal' -> (absent)" in lines
    assert diff({"a": {"b": 1}}, {"a": {}}) == ["a.b: 1 -> (absent)", "a: (absent) -> {}"]
