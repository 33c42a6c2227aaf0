"""Requests and recipes as typed values: bounds, help and command-line flag stand on the field.

Validation, error messages, command-line options and the limits of widgets follow from the fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError
from pydantic.fields import FieldInfo

from nirvana.errors import NirvanaError, RunError

Choices = Callable[[], Iterable[str]]
Item = TypeVar("Item")


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_float(value: Any) -> Any:
    return math.inf if value == "inf" else value


def _distinct(value: Any) -> Any:
    try:
        return tuple(dict.fromkeys(value)) if isinstance(value, list | tuple) else value
    except TypeError:
        return tuple(value)  # entries that cannot be compared; their own type rejects them


Many = Annotated[tuple[Item, ...], BeforeValidator(_as_tuple)]  # a list in JSON
Distinct = Annotated[tuple[Item, ...], BeforeValidator(_distinct)]  # each entry once
Extended = Annotated[  # a float that may be infinite, "inf" in JSON
    float,
    BeforeValidator(_as_float),
    PlainSerializer(lambda value: "inf" if math.isinf(value) else value),
]


class Option(NamedTuple):
    """One field as the command line and the dashboard need it.

    Attributes:
        name: of the field.
        flag: on the command line; empty where it has none.
        help: one line.
        kind: type of the value, or of one entry where `many` holds.
        many: whether the field is a tuple.
        default: the field's.
        low, high: inclusive bounds of a number, or None. Exclusive bounds of a float are open.
        choices: accepted words; empty where any word is accepted.
    """

    name: str
    flag: str
    help: str
    kind: type
    many: bool
    default: Any
    low: float | None
    high: float | None
    choices: tuple[str, ...]


def option(
    default: Any,
    flag: str,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Choices | None = None,
    error: type[NirvanaError] | None = None,
) -> Any:
    """A field of a `Schema`. Bounds hold for every entry of a tuple.

    Args:
        default: value of the field where none is given.
        flag: command-line flag; "" for none.
        help: one line, lower case, without a full stop.
        ge, gt, le, lt: bounds of a number.
        choices: gives the accepted words.
        error: raised for this field; by default the schema's.
    """
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    extra = {"flag": flag, "bounds": bounds, "choices": choices, "error": error}
    return Field(default, description=help, json_schema_extra=extra)  # type: ignore[arg-type]


class Schema(BaseModel):
    """A frozen value whose fields are validated on construction.

    Class attributes: `error` is raised for fields that name none; `section` prefixes field names in messages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    error: ClassVar[type[NirvanaError]] = RunError
    section: ClassVar[str] = ""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise self._translated(error) from None
        for name, info in type(self).model_fields.items():
            self._check_field(name, info)

    def with_values(self, **values: Any) -> Self:
        """A copy with other values, checked like a new one."""
        return type(self)(**{**vars(self), **values})

    def to_json(self) -> dict[str, Any]:
        return self.model_dump()

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read a value; fields that are left out take their defaults.

        Raises:
            NirvanaError: a field is unknown, of the wrong type or out of range.
        """
        if not isinstance(data, Mapping):
            raise cls.error(f"{cls._title()} must be an object, not {_shown(data)}.", "Correct it.")
        return cls(**{str(name): value for name, value in data.items()})

    @classmethod
    def _title(cls) -> str:
        return cls.section or cls.__name__

    @classmethod
    def _place(cls, name: str) -> str:
        return f"{cls.section}.{name}" if cls.section else name

    def _translated(self, error: ValidationError) -> NirvanaError:
        first = error.errors(include_url=False, include_input=False)[0]
        inner = first.get("ctx", {}).get("error")
        if isinstance(inner, NirvanaError):  # of a nested schema
            return inner
        name = str(first["loc"][0]) if first["loc"] else ""
        fields = type(self).model_fields
        if name not in fields:
            known = ", ".join(fields)
            return self.error(f"{self._title()} has no field {name!r}.", f"Fields are {known}.")
        found = error.errors(include_url=False)[0]["input"]
        return self._refusal(name, fields[name], found)

    def _check_field(self, name: str, info: FieldInfo) -> None:
        option = option_of(name, info)
        value = getattr(self, name)
        bounds = _extra(info).get("bounds", {})
        for entry in value if option.many else (value,):
            outside = not _inside(entry, **bounds) if isinstance(entry, int | float) else False
            if outside or (option.choices and entry not in option.choices):
                raise self._refusal(name, info, entry)

    def _refusal(self, name: str, info: FieldInfo, value: Any) -> NirvanaError:
        option = option_of(name, info)
        nested = option.kind.error if issubclass(option.kind, Schema) else self.error
        wrong: type[NirvanaError] = _extra(info).get("error") or nested
        hint = f"Correct it; the option is {option.flag}." if option.flag else "Correct it."
        return wrong(f"{self._place(name)} must be {_wanted(option, info)}, not {_shown(value)}.", hint)


def option_of(name: str, info: FieldInfo) -> Option:
    """The field as an `Option`."""
    extra, annotation = _extra(info), info.annotation
    many = getattr(annotation, "__origin__", None) is tuple
    kind = annotation.__args__[0] if many else annotation  # type: ignore[union-attr]
    kind = getattr(kind, "__origin__", kind)
    assert isinstance(kind, type)
    bounds, choices = extra.get("bounds", {}), extra.get("choices")
    low, high = (bounds.get(a) if bounds.get(a) is not None else bounds.get(b) for a, b in (("ge", "gt"), ("le", "lt")))
    words = tuple(choices()) if choices else ()
    return Option(name, extra.get("flag", ""), info.description or "", kind, many, info.default, low, high, words)


def options(schema: type[Schema]) -> dict[str, Option]:
    """Field name -> option, of the fields that were declared with `option`."""
    return {name: option_of(name, info) for name, info in schema.model_fields.items() if _extra(info)}


def limits(schema: type[Schema], name: str) -> dict[str, Any]:
    """`min_value` and `max_value` of the number widget for a field."""
    found = options(schema)[name]
    return {"min_value": found.kind(found.low), "max_value": found.kind(found.high)}


def _extra(info: FieldInfo) -> dict[str, Any]:
    return info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}


def _inside(value: float, ge: float | None, gt: float | None, le: float | None, lt: float | None) -> bool:
    """Whether a number is within its bounds; NaN is outside every bound."""
    return (
        (ge is None or value >= ge)
        and (gt is None or value > gt)
        and (le is None or value <= le)
        and (lt is None or value < lt)
    )


def _wanted(option: Option, info: FieldInfo) -> str:
    """E.g. "a whole number from 1 to 4,096", "one of shared, published"."""
    if option.choices:
        words = f"one of {', '.join(option.choices)}"
    else:
        kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        words = kinds.get(option.kind, "an object")
        bounds = _extra(info).get("bounds", {})
        strict = bounds.get("gt") is not None or bounds.get("lt") is not None
        if option.low is not None and option.high is not None:
            words += f" {'between' if strict else 'from'} {option.low:,} {'and' if strict else 'to'} {option.high:,}"
        elif option.low is not None:
            words += f" of {option.low:,} or more"
    return f"a list, each entry {words}" if option.many else words


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
