"""Events as types: msgspec Structs or pydantic models, told apart by the member ``type`` of their JSON."""

from collections.abc import Callable
from typing import Any, Final, get_args

import msgspec

from pystrands.errors import EventError
from pystrands.protocol.plain import plain

__all__ = ["Events", "as_json", "is_model"]

_TYPE: Final = "type"


class _Tagged(msgspec.Struct):
    type: str


_tagged: Final = msgspec.json.Decoder(_Tagged).decode


class Events:
    """Kinds of events, which JSON is read as.

    Each is a msgspec Struct with a tag (``class Say(Struct, tag="say")``), or a pydantic model whose field ``type`` is
    a ``Literal`` of one str. For example::

        EVENTS = Events(Say, Typing)


        match EVENTS.decode(message):
            case Say(text=text):
                ...
    """

    def __init__(self, *kinds: type) -> None:
        """Take the kinds. Raises TypeError on what is none, ValueError where two have the same ``type``."""
        self._kinds: dict[str, type] = {}
        self._decode: dict[str, Callable[[str | bytes], Any]] = {}
        for kind in kinds:
            self.add(kind)

    @property
    def kinds(self) -> tuple[type, ...]:
        """All kinds, in the order in which they were added."""
        return tuple(self._kinds.values())

    def add(self, kind: type) -> str:
        """Add one more kind; return its ``type``. Raises as the constructor does."""
        name = _name_of(kind)
        if name in self._kinds:
            raise ValueError(f"{kind.__name__} and {self._kinds[name].__name__} have the same type, {name!r}")
        self._kinds[name] = kind
        self._decode[name] = _validated(kind) if is_model(kind) else msgspec.json.Decoder(kind).decode
        return name

    def type_of(self, message: str | bytes) -> str | None:
        """Return the ``type`` of a message; None where it is none of these kinds, or no event at all."""
        try:
            name = _tagged(message).type
        except (ValueError, RecursionError):
            return None
        return name if name in self._kinds else None

    def decode(self, message: str | bytes) -> Any:
        """Return a message as the event that it is. Raises EventError on what is none, or not as its kind wants it."""
        name = self.type_of(message)
        if name is None:
            raise EventError("the message is no event that is known here")
        try:
            return self._decode[name](message)
        except (ValueError, RecursionError) as error:
            raise EventError(f"the message is no {name!r} as it must be: {error}") from None


def as_json(value: Any) -> str:
    """Return a value as JSON: Structs, models, dataclasses, and all that is made of JSON values.

    Raises TypeError on anything else.
    """
    return _encode(value).decode()


def is_model(kind: Any) -> bool:
    """Whether that is a pydantic model; pydantic itself need not be there."""
    return isinstance(kind, type) and hasattr(kind, "model_fields") and hasattr(kind, "model_validate_json")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if is_model(type(value)) else plain(value)


_encode: Final = msgspec.json.Encoder(enc_hook=_plain).encode


def _validated(kind: Any) -> Callable[[str | bytes], Any]:
    validate: Callable[[str | bytes], Any] = kind.model_validate_json  # its errors are ValueErrors
    return validate


def _name_of(kind: Any) -> str:
    if is_model(kind):
        field = kind.model_fields.get(_TYPE)
        names = () if field is None else get_args(field.annotation)
        if len(names) == 1 and isinstance(names[0], str):
            return names[0]
        raise TypeError(f"{kind.__name__} needs a field that tells it from others: type: Literal['...']")
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        config = kind.__struct_config__
        if isinstance(config.tag, str) and config.tag_field == _TYPE:
            return config.tag
        raise TypeError(
            f"{kind.__name__} needs a tag that tells it from others: class {kind.__name__}(Struct, tag='...')"
        )
    what = getattr(kind, "__name__", None) or repr(kind)
    raise TypeError(f"an event is a msgspec Struct or a pydantic model, and {what} is neither")
