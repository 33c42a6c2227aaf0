"""Schemas: one declaration gives validation, messages, command-line options and the limits of widgets."""

from __future__ import annotations

import argparse
import math
from typing import Any, ClassVar

import pytest
from pydantic import Field

from nirvana.errors import NirvanaError, PlanError, RunError
from nirvana.options import add_fields, given, words
from nirvana.schema import Extended, Many, Schema, limits, option, options


class Part(Schema):
    section: ClassVar[str] = "part"
    error: ClassVar[type[NirvanaError]] = PlanError

    share: float = option(0.2, "--share", "share that goes", gt=0, lt=1)
    ratio: Extended = option(3.0, "--ratio", "ratio of rates", ge=0)
    count: int = option(8, "--count", "how many", ge=1, le=64, error=RunError)
    layers: Many[int] = option((), "--layer", "layer to keep; may be repeated", ge=0)
    even: bool = option(False, "--even", "equal widths")
    rule: str = option("shared", "--rule", "rule", choices=lambda: ("shared", "published"))


class Whole(Schema):
    part: Part = Field(default_factory=Part)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"share": 0.0}, PlanError, "part.share must be a number between 0 and 1, not 0.0."),
        ({"share": math.nan}, PlanError, "part.share must be a number between 0 and 1, not nan."),
        ({"share": True}, PlanError, "part.share must be a number between 0 and 1, not True."),
        ({"share": 10**400}, PlanError, "part.share must be a number between 0 and 1, not 1000"),
        ({"ratio": math.nan}, PlanError, "part.ratio must be a number of 0 or more, not nan."),
        ({"ratio": "-inf"}, PlanError, "part.ratio must be a number of 0 or more, not '-inf'."),
        ({"count": 65}, RunError, "part.count must be a whole number from 1 to 64, not 65."),
        ({"count": 1.5}, RunError, "part.count must be a whole number from 1 to 64, not 1.5."),
        ({"layers": [0, -1]}, PlanError, "part.layers must be a list, each entry a whole number of 0 or more, not -1."),
        ({"layers": 3}, PlanError, "part.layers must be a list, each entry a whole number of 0 or more, not 3."),
        ({"even": 1}, PlanError, "part.even must be true or false, not 1."),
        ({"rule": "best"}, PlanError, "part.rule must be one of shared, published, not 'best'."),
        ({"colour": 1}, PlanError, "part has no field 'colour'."),
        ([], PlanError, "part must be an object, not []."),
    ],
)
def test_a_wrong_value_is_refused_with_its_bounds(values: Any, error: type[NirvanaError], message: str) -> None:
    for read in (lambda: Part.from_json(values), lambda: Whole.from_json({"part": values})):
        with pytest.raises(error) as caught:
            read()
        assert caught.value.message.startswith(message)
        assert caught.value.hint


def test_a_value_survives_json_and_is_checked_when_it_is_changed() -> None:
    part = Part(ratio=math.inf, layers=(1, 2))
    assert part.to_json()["ratio"] == "inf"
    assert Whole.from_json({"part": {**part.to_json(), "layers": [1, 2]}}) == Whole(part=part)
    assert part.with_values(count=9).count == 9
    with pytest.raises(RunError):
        part.with_values(count=0)
    with pytest.raises(Exception, match="frozen"):
        part.count = 3


def test_the_command_line_gives_back_what_its_words_say() -> None:
    parser = argparse.ArgumentParser()
    add_fields(parser, Part)
    cases: list[dict[str, Any]] = [
        {},
        {"ratio": math.inf, "layers": (3, 1), "even": True},
        {"share": 0.123456789, "rule": "published"},
    ]
    for values in cases:
        part = Part(**values)
        found = given(Part, parser.parse_args(list(words(part))))
        assert Part(**found) == part and set(found) == set(values)
    assert given(Part, parser.parse_args(["--no-even"])) == {"even": False}
    assert list(words(Part(ratio=4.0), always=["--share"])) == ["--share", "0.2", "--ratio", "4"]


def test_options_can_be_chosen_and_tell_their_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_fields(parser, Part, only=("--count",))
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--count COUNT how many, 1 to 64 (default: 8)" in shown and "--rule" not in shown


def test_widgets_take_their_limits_from_the_field() -> None:
    assert limits(Part, "count") == {"min_value": 1, "max_value": 64}
    assert limits(Part, "share") == {"min_value": 0.0, "max_value": 1.0}
    assert [found.flag for found in options(Part).values()][:2] == ["--share", "--ratio"]
