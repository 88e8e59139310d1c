"""Settings explain themselves: what an error or the help page shows of one stands alone."""

import dataclasses
import re
from typing import Any

from mamba.algorithms.registry import KINDS
from mamba.fields import setting
from mamba.runs.config import SECTIONS, RunConfig

CLASSES = [RunConfig, *SECTIONS.values(), *dict.fromkeys(kind.config for kind in KINDS.values())]
SETTINGS = {
    f"{cls.__module__}.{cls.__qualname__}.{field.name}": field
    for cls in CLASSES
    for field in dataclasses.fields(cls)
    if "help" in field.metadata
}
LEANS = re.compile(
    r"\b(such a|that (threshold|distance|limit)|(of|to|below|above) it\b|sets it\b|goal below|those seeds)|^of "
)


def test_help_stands_alone() -> None:
    """The line of an error shows it without the settings around it."""

    def leans(text: str) -> bool:
        return len(text.split()) < 2 or text.endswith(".") or LEANS.search(text) is not None

    assert len(SETTINGS) > 300
    assert {name: told for name, field in SETTINGS.items() if leans(told := field.metadata["help"])} == {}


def test_whole_numbers_and_shares_have_a_unit() -> None:
    def nameless(field: dataclasses.Field[Any]) -> bool:
        told = field.metadata
        return not told["unit"] and field.name != "seed" and (field.type == "int" or 1 in (told["le"], told["lt"]))

    assert [name for name, field in SETTINGS.items() if nameless(field)] == []


def test_a_field_holds_what_it_was_given() -> None:
    made = setting({"a": 1.0}, "what it is", unit="steps", ge=0, lt=2, choices=None)
    assert made.metadata["help"] == "what it is" and made.metadata["unit"] == "steps"
    assert (made.metadata["ge"], made.metadata["gt"], made.metadata["le"], made.metadata["lt"]) == (0, None, None, 2)
    assert made.default_factory() == {"a": 1.0} and made.default_factory() is not made.default_factory()
    assert setting("x", "which", choices=["x", "y"]).metadata["choices"] == ("x", "y")
