"""The recipes in `configs/` and the checks of every config."""

import copy
import dataclasses
import importlib
import json
import math
import re
from pathlib import Path

import pytest

import advx_jax.configs
from advx_jax.errors import UserError
from advx_jax.networks.resnet import ResNetArchitecture
from advx_jax.training.config_fields import differing_fields
from advx_jax.training.recipe import Augmentation, Optimizer, Penalty, TrainingAttack, recipe_from_config

FOLDER = Path(advx_jax.configs.__path__[0])
ALL = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "published"))

# From the specification, sections 1, 3 and 6.
LIPSCHITZ = Penalty(
    weight_at_zero=220.0,
    rate=0.02,
    target_loss=1.5,
    smallest_move=-0.01,
    largest_move=1.0,
    tandem_probability=0.2,
)
# Name of the network, activation, penalty, attack: kind, eps, T, how often an example is attacked.
PUBLISHED = {
    "standard": ("resnet44-standard", "relu", None, ("none",)),
    "adv_train": ("resnet44-adv-train", "relu", None, ("l2", 0.01, 7, 1.0)),
    "robust": ("resnet44-robust", "half_huber", LIPSCHITZ, ("none",)),
    "all": ("resnet44-all", "half_huber", LIPSCHITZ, ("l2_min", 0.1, 7, 0.5)),
}


def config_of(name):
    return importlib.import_module(f"advx_jax.configs.{name}").get_config().to_dict()


def changed(config, field, value):
    """A copy of the config with one field, written as `attack.eps`, set or added."""
    config = copy.deepcopy(config)
    *parents, last = field.split(".")
    inner = config
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return config


def without(config, field):
    config = copy.deepcopy(config)
    *parents, last = field.split(".")
    inner = config
    for parent in parents:
        inner = inner[parent]
    del inner[last]
    return config


def test_there_is_a_config_for_each_published_network_some_quick_ones_and_one_to_try():
    assert set(ALL) == {
        *PUBLISHED,
        *("quick_standard", "quick_robust", "quick_robust_tuned", "wide_all", "wide_all_longer"),
        *("short_standard", "short_standard_longer"),
        *("smoke", "digits", "own_images"),
    }


@pytest.mark.parametrize("name", ["standard", "robust"])
def test_quick_recipes_change_nothing_but_size_schedule_and_the_speed_of_psi(name):
    quick, published = config_of(f"quick_{name}"), config_of(name)
    names = {text.split(":")[0] for text in differing_fields(published, quick)}
    assert names - {"penalty.rate"} == {
        "name",
        "epochs",
        "batch_size",
        "held_out",
        "architecture.stage_lengths",
        "optimizer.learning_rate_per_128",
        "optimizer.warm_up_epochs",
        "optimizer.decay",
    }
    assert ("penalty.rate" in names) == (name == "robust")


def test_the_recipes_for_one_gpu_change_size_schedule_and_precision():
    names = {
        name: {text.split(":")[0] for text in differing_fields(config_of(published), config_of(name))}
        for name, published in (("wide_all", "all"), ("short_standard", "standard"))
    }
    schedule = {f"optimizer.{name}" for name in ("warm_up_epochs", "decay", "learning_rate_drops")}
    common = {"name", "epochs", "batch_size", "held_out", "compute_dtype", *schedule}
    size = {"architecture.stage_lengths", "architecture.stage_widths"}
    assert names["wide_all"] == common | size | {"optimizer.learning_rate_per_128", "attack.steps", "penalty.rate"}
    assert names["short_standard"] == common | {"optimizer.weight_decay"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_have_the_constants_of_the_paper(name):
    network, activation, penalty, attack = PUBLISHED[name]
    recipe = recipe_from_config(config_of(name))
    assert recipe.name == network
    assert recipe.architecture == ResNetArchitecture((7, 7, 7), (16, 32, 64), 10, activation, 0.5)
    assert (recipe.epochs, recipe.batch_size, recipe.held_out) == (200, 512, 0)
    assert recipe.optimizer == Optimizer(0.1, 0.0, "drops", (170, 195), 0.9, 1e-4)
    assert recipe.learning_rate == 0.4
    assert recipe.augmentation == Augmentation(padding=4, flip_probability=0.5)
    assert recipe.penalty == penalty
    assert dataclasses.astuple(recipe.attack)[: len(attack)] == attack
    assert (recipe.batch_norm, recipe.compute_dtype, recipe.init_from) == ("synchronised", "float32", "")


def test_the_published_configs_share_all_that_they_do_not_name():
    same = config_of("standard")
    for name in PUBLISHED:
        config = config_of(name)
        names = {text.split(":")[0] for text in differing_fields(same, config)}
        assert names <= {
            "name",
            "architecture.activation",
            "attack.kind",
            "attack.eps",
            "attack.attacked_probability",
            "penalty",
            *(f"penalty.{field.name}" for field in dataclasses.fields(Penalty)),
        }


def test_learning_rate_follows_the_global_batch():
    for batch_size, rate in ((128, 0.1), (1024, 0.8), (32, 0.025)):
        recipe = recipe_from_config(changed(config_of("robust"), "batch_size", batch_size))
        assert recipe.learning_rate == pytest.approx(rate, rel=1e-12)


def test_smoke_recipe_is_small_and_has_every_ingredient():
    recipe = recipe_from_config(config_of("smoke"))
    assert recipe.data == "sample"
    assert recipe.epochs <= 5
    assert sum(recipe.architecture.stage_lengths) <= 3
    assert recipe.architecture.activation == "half_huber"
    assert recipe.penalty == LIPSCHITZ
    assert recipe.attack == TrainingAttack("l2_min", 0.1, 7, 0.5)
    # The 192 training images of the sample end in a short batch, and one drop of the rate is passed.
    assert 192 % recipe.batch_size
    assert any(drop < recipe.epochs for drop in recipe.optimizer.learning_rate_drops)


@pytest.mark.parametrize("name", ALL)
def test_docstrings_of_configs_show_their_command(name):
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert f"python -m advx_jax.train --config=configs/{name}.py" in text


@pytest.mark.parametrize("name", ALL)
def test_a_config_read_back_from_json_gives_the_same_recipe(name):
    config = config_of(name)
    again = json.loads(json.dumps(config))
    assert again != config  # tuples have become lists
    assert recipe_from_config(again) == recipe_from_config(config)
    assert hash(recipe_from_config(again)) == hash(recipe_from_config(config))
    assert differing_fields(config, again) == []


@pytest.mark.parametrize(
    ("field", "value", "nearest"),
    [
        ("epoch", 3, "epochs"),
        ("batchsize", 64, "batch_size"),
        ("optimizer.momentun", 0.9, "momentum"),
        ("attack.epsilon", 0.1, "eps"),
        ("penalty.tandem_probabillity", 0.2, "tandem_probability"),
        ("architecture.width", 3, "bowl_width"),
    ],
)
def test_unknown_fields_are_refused_and_the_nearest_is_named(field, value, nearest):
    with pytest.raises(UserError) as caught:
        recipe_from_config(changed(config_of("all"), field, value))
    assert str(caught.value) == f"config.{field}: no such field; did you mean {nearest}?"


@pytest.mark.parametrize("field", ["epochs", "name", "penalty", "attack", "attack.steps", "penalty.rate", "data"])
def test_missing_fields_are_named(field):
    *parents, last = field.split(".")
    with pytest.raises(UserError) as caught:
        recipe_from_config(without(config_of("all"), field))
    assert str(caught.value).startswith(f"{'.'.join(['config', *parents])}: expected the fields {last} too")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("epochs", "3", "of type int, got '3'"),
        ("epochs", 3.0, "of type int, got 3.0"),
        ("epochs", True, "of type int, got True"),
        ("name", None, "of type str, got None"),
        ("data", 3, "of type str, got 3"),
        ("optimizer.momentum", "0.9", "of type float, got '0.9'"),
        ("optimizer.momentum", False, "of type float, got False"),
        ("optimizer.learning_rate_drops", 170, "a list, got 170"),
        ("optimizer.learning_rate_drops", (170, 195.5), "of type int, got 195.5"),
        ("architecture.stage_lengths", "777", "a list, got '777'"),
        ("architecture.activation", "gelu", "one of relu, half_huber, got 'gelu'"),
        ("attack.kind", "linf", "one of none, l2, l2_min, got 'linf'"),
        ("batch_norm", "shared", "one of synchronised, per_device, got 'shared'"),
        ("compute_dtype", "float16", "one of float32, tensorfloat32, bfloat16, got 'float16'"),
        ("optimizer", 0.1, "fields, got 0.1"),
        ("penalty", 220.0, "fields, got 220.0"),
    ],
)
def test_values_of_the_wrong_type_are_refused(field, value, expected):
    with pytest.raises(UserError) as caught:
        recipe_from_config(changed(config_of("all"), field, value))
    message = str(caught.value)
    assert message.startswith(f"config.{field}: expected ")
    assert message.endswith(expected)


def test_whole_numbers_stand_for_floats():
    recipe = recipe_from_config(changed(config_of("all"), "optimizer.learning_rate_per_128", 1))
    assert type(recipe.optimizer.learning_rate_per_128) is float
    assert recipe.learning_rate == 4.0


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
@pytest.mark.parametrize(
    "field", ["attack.attacked_probability", "augmentation.flip_probability", "penalty.tandem_probability"]
)
def test_probabilities_lie_between_zero_and_one(field, value):
    with pytest.raises(
        UserError, match=rf"^config\.{field}: expected a (probability from 0 to 1|finite number), got {value}$"
    ):
        recipe_from_config(changed(config_of("all"), field, value))
    for limit in (0.0, 1.0):
        recipe_from_config(changed(config_of("all"), field, limit))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("batch_size", -512),
        ("held_out", -1),
        ("augmentation.padding", -1),
        ("keeping.log_every", 0),
        ("keeping.n_checkpoints", 0),
        ("attack.steps", 0),
        ("attack.eps", 0.0),
        ("attack.eps", math.nan),
        ("optimizer.learning_rate_per_128", 0.0),
        ("optimizer.learning_rate_per_128", math.nan),
        ("penalty.target_loss", 0.0),
        ("penalty.weight_at_zero", -220.0),
        ("seed", -1),
        ("keeping.ara_images", -1),
        ("optimizer.momentum", math.nan),
        ("optimizer.weight_decay", math.nan),
        ("penalty.rate", math.nan),
        ("optimizer.learning_rate_drops", (2, 2)),
        ("optimizer.warm_up_epochs", -0.5),
        ("optimizer.warm_up_epochs", 200.0),
        ("optimizer.momentum", 1.0),
        ("optimizer.momentum", -0.1),
        ("optimizer.weight_decay", -1e-4),
        ("penalty.rate", 0.0),
        ("penalty.rate", -0.02),
        ("penalty.smallest_move", 0.01),
        ("penalty.largest_move", -0.01),
        ("optimizer.learning_rate_drops", (-1, 2)),
        ("keeping.checkpoint_minutes", -1.0),
        ("seed", 2**32),
        ("seed", 2**63),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(field, value):
    with pytest.raises(UserError, match=rf"^config\.{field}: expected .*, got {re.escape(str(value))}$"):
        recipe_from_config(changed(config_of("all"), field, value))


def test_an_attack_that_is_not_made_needs_no_numbers():
    config = changed(changed(config_of("standard"), "attack.steps", 0), "attack.eps", 0.0)
    assert recipe_from_config(config).attack.kind == "none"


def test_impossible_architectures_are_refused():
    with pytest.raises(UserError, match="as many stage lengths as stage widths"):
        recipe_from_config(changed(config_of("all"), "architecture.stage_lengths", (7, 7)))
    with pytest.raises(UserError, match="bowl width"):
        recipe_from_config(changed(config_of("all"), "architecture.bowl_width", 0.0))


def test_differing_fields_are_named_with_both_values():
    there = {"a": 1, "b": {"c": (1, 2), "d": "x"}, "e": None}
    assert differing_fields(there, there) == []
    assert differing_fields(there, {"e": None, "b": {"d": "x", "c": [1, 2]}, "a": 1}) == []
    now = {"a": 2, "b": {"c": [1, 3], "d": "x", "new": 0.5}}
    assert differing_fields(there, now) == [
        "a: 1 there, 2 now",
        "b.c: [1, 2] there, [1, 3] now",
        "b.new: nothing there, 0.5 now",
        "e: None there, nothing now",
    ]


def test_a_penalty_that_is_there_differs_from_one_that_is_not():
    names = [text.split(":")[0] for text in differing_fields(config_of("adv_train"), config_of("all"))]
    assert "penalty.weight_at_zero" in names
    assert "penalty" in names


def test_fields_that_may_differ_can_be_left_out():
    there, now = {"a": 1, "b": {"c": 1}}, {"a": 2, "b": {"c": 2}}
    assert differing_fields(there, now, ignored=("b.",)) == ["a: 1 there, 2 now"]
