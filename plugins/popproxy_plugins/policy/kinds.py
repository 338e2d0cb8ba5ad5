"""Kinds of values of the plugin's options. Wherever ``false`` may be written it lifts what later rules would set."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_wrap_validator_function

from popproxy.api import LOGIN_MECHANISMS, TRANSACTION_COMMANDS, Duration, Octets

T = TypeVar("T")

Mode = Literal["enforce", "audit"]
NEVER_DENIED = ("QUIT", "NOOP", "CAPA")
"""Commands that no rule takes away: without them a client can neither leave nor look around."""
TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
DAYS_MOST = 36_500
SIZE_MOST = 2**52
"""Stores count no further (api.store.MOST)."""
UNKNOWN = "unknown"
"""The country of an address that is in none."""

_CODES = (
    "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT "
    "BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH "
    "ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT "
    "HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS "
    "LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI "
    "NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG "
    "SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG "
    "UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW "
)
_COUNTRIES = frozenset(_CODES.split())
"""ISO 3166-1, and XK, by which the databases know Kosovo."""

_LOGINS = re.compile(r"(\d{1,9}) ?/ ?(second|minute|hour|day|\S+)")
_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_SECONDS: TypeAdapter[float] = TypeAdapter(Duration)


@dataclass(frozen=True, slots=True)
class Logins:
    """At most ``count`` in ``seconds``."""

    count: int
    seconds: float


def country(name: str) -> str:
    """The country as databases write it, or ``unknown``. Raises ValueError."""
    if name.lower() == UNKNOWN:
        return UNKNOWN
    if name.upper() not in _COUNTRIES:
        raise ValueError(f'{name!r} is no country: write two letters of ISO 3166 like "DE", or "unknown"')
    return name.upper()


def domain(name: str) -> str:
    """The domain as it is. Raises ValueError for what can stand behind no ``@``, or is a glob."""
    bare = name.rpartition("@")[2]
    if re.search(r"[*?\[]", bare):
        raise ValueError(f'{name!r} is a pattern, which domain does not take: write user = ["*@{bare}"] instead')
    if bare != name or not name.strip():
        raise ValueError(f"{name!r} is no domain: write {(bare.strip() or 'example.com')!r}, what stands behind the @")
    return name


def mechanism(name: str) -> str:
    """The mechanism in upper case. Raises ValueError for one by which nobody can log in here."""
    if name.upper() not in LOGIN_MECHANISMS:
        raise ValueError(f"{name!r} is no way to log in: write some of {', '.join(LOGIN_MECHANISMS)}")
    return name.upper()


def command(name: str) -> str:
    """The command in upper case. Raises ValueError for one that is not in the table behind a login."""
    if name.upper() not in TRANSACTION_COMMANDS:
        raise ValueError(f"{name!r} is no command behind a login: write some of {', '.join(TRANSACTION_COMMANDS)}")
    return name.upper()


def logins(written: str) -> Logins:
    """What ``100/day`` says. Raises ValueError."""
    hint = 'write it like "100/day", "10/minute" or "50/2h"'
    found = _LOGINS.fullmatch(written)
    if found is None or int(found[1]) == 0:
        raise ValueError(f"{written!r} is no number of logins in a time: {hint}")
    try:
        seconds = _PERIODS.get(found[2]) or _SECONDS.validate_python(found[2])
    except ValidationError:
        raise ValueError(f"{found[2]!r} is no time: {hint}") from None
    return Logins(int(found[1]), seconds)


def tls_floor(value: object) -> bool | str:
    """``true``, ``false`` or a version. Raises ValueError."""
    if isinstance(value, bool) or (isinstance(value, str) and value in TLS_VERSIONS):
        return value
    raise ValueError(f"{value!r} says nothing of TLS: write true, false, or one of {', '.join(TLS_VERSIONS)}")


def expiry(value: object) -> int | Literal["NEVER"]:
    """Days, ``NEVER`` or ``false``. Raises ValueError."""
    if value is False:
        return False
    if value == "NEVER":
        return "NEVER"
    if isinstance(value, int) and value is not True and 0 <= value <= DAYS_MOST:
        return value
    raise ValueError(f'{value!r} is no EXPIRE (RFC 2449 section 6.7): write days like 30, or "NEVER"')


class Lift:
    """Annotation: ``false`` may stand in place of the value."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def lifted(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
            return False if value is False else inner(value)

        return no_info_wrap_validator_function(lifted, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        inner = handler(schema)
        return {"anyOf": [*inner.get("anyOf", [inner]), {"const": False}]}


def _some(items: tuple[T, ...]) -> tuple[T, ...]:
    if not items:
        raise ValueError("an empty list says nothing: write at least one entry, or leave it out")
    return items


_FLOORS: dict[str, Any] = {"anyOf": [{"type": "boolean"}, {"enum": list(TLS_VERSIONS)}]}
_EXPIRIES: dict[str, Any] = {"anyOf": [{"type": "integer", "minimum": 0}, {"const": "NEVER"}, {"const": False}]}

Some = Annotated[tuple[T, ...], AfterValidator(_some)]
"""A list that is not empty."""
SomeOrAll = Annotated[tuple[T, ...], AfterValidator(_some), Lift()]
Count = Annotated[int, Field(ge=1, le=1_000_000_000, strict=True), Lift()]
Days = Annotated[int, Field(ge=1, le=DAYS_MOST, strict=True), Lift()]
Size = Annotated[Octets, Field(ge=1, le=SIZE_MOST), Lift()]
Time = Annotated[Duration, Lift()]
Text = Annotated[str, Lift()]
Tls = Annotated[bool | str, PlainValidator(tls_floor), WithJsonSchema(_FLOORS)]
Expiry = Annotated[int | Literal["NEVER"], PlainValidator(expiry), WithJsonSchema(_EXPIRIES)]
