"""Kinds of events as TypeScript, by way of JSON Schema."""

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from pystrands.events import Events, is_model

__all__ = ["typescript"]

_DEFS: Final = "#/$defs/"
_PLAIN: Final = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}
_IDENTIFIER: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")


def typescript(events: Events, made_by: str) -> str:
    """Return a module that has each kind as a type, and all of them as ``Event``. ``made_by``: the command, to be told.

    Raises TypeError where a kind has what JSON Schema can't say, ValueError where two types would have one name.
    """
    schemas = _schemas(events.kinds)
    names = _named(schemas)
    parts = [f"// Made by `{made_by}`; what is changed here is lost.\n"]
    for key, schema in schemas.items():
        parts.append(_declared(names[key], schema, names))
    union = " | ".join(names[each.__name__] for each in events.kinds) or "never"
    parts.append(f"export type Event = {union};\n")
    return "\n".join(parts)


def _schemas(kinds: Sequence[type]) -> dict[str, Any]:
    """Return the schemas of kinds, and of all that they refer to, by name."""
    names = [each.__name__ for each in kinds]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two types have the name {twice[0]}")
    structs = [each for each in kinds if not is_model(each)]
    models = [each for each in kinds if is_model(each)]
    _, found = msgspec.json.schema_components(structs, ref_template=_DEFS + "{name}")
    schemas = dict(found)
    if models:
        schema = importlib.import_module("pydantic.json_schema").models_json_schema
        _, whole = schema([(each, "validation") for each in models], ref_template=_DEFS + "{model}")
        for name, each in whole.get("$defs", {}).items():
            if schemas.setdefault(name, each) != each:
                raise ValueError(f"two types have the name {name}")
    for name in names:
        if name not in schemas:  # another type, which one of them refers to, has the same
            raise ValueError(f"two types have the name {name}")
    return {name: schemas[name] for name in sorted(schemas)}


def _named(schemas: Mapping[str, Any]) -> dict[str, str]:
    """Return the names that types have in TypeScript, by those in the schemas."""
    names: dict[str, str] = {}
    for key in schemas:
        name = re.sub(r"\W+", "_", key, flags=re.ASCII).strip("_") or "_"
        if not _IDENTIFIER.fullmatch(name):
            name = "_" + name
        if name in names.values() or name == "Event":
            raise ValueError(f"two types would have the name {name}")
        names[key] = name
    return names


def _declared(name: str, schema: Mapping[str, Any], names: Mapping[str, str]) -> str:
    comment = _comment(schema, "")
    if schema.get("type") == "object" and "properties" in schema:
        return f"{comment}export interface {name} {_object(schema, names, '')}\n"
    return f"{comment}export type {name} = {_type(schema, names, '')};\n"


def _comment(schema: Mapping[str, Any], indent: str) -> str:
    text = str(schema.get("description", "")).replace("*/", "* /").strip()
    if not text:
        return ""
    lines = [line.strip() for line in text.splitlines()]
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    middle = "".join(f"{indent} * {line}".rstrip() + "\n" for line in lines)
    return f"{indent}/**\n{middle}{indent} */\n"


def _object(schema: Mapping[str, Any], names: Mapping[str, str], indent: str) -> str:
    inner, required = indent + "  ", schema.get("required", ())
    lines = []
    for key, member in schema["properties"].items():
        # What has only one value is always written: it is what tells types from each other.
        is_there = key in required or "const" in member or len(member.get("enum", ())) == 1
        shown = key if _IDENTIFIER.fullmatch(key) else json.dumps(key)
        mark = "" if is_there else "?"
        lines.append(f"{_comment(member, inner)}{inner}{shown}{mark}: {_type(member, names, inner)};\n")
    return "{\n" + "".join(lines) + indent + "}"


def _type(schema: Any, names: Mapping[str, str], indent: str) -> str:
    if not isinstance(schema, Mapping) or not schema:
        return "never" if schema is False else "unknown"
    if "$ref" in schema:
        return names[schema["$ref"].removeprefix(_DEFS)]
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(each) for each in schema["enum"])
    for key, sign in (("anyOf", " | "), ("oneOf", " | "), ("allOf", " & ")):
        if key in schema:
            return sign.join(dict.fromkeys(_type(each, names, indent) for each in schema[key]))
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(_type({**schema, "type": each}, names, indent) for each in kind)
    if kind == "array":
        return _array(schema, names, indent)
    if kind == "object":
        if schema.get("properties"):
            return _object(schema, names, indent)
        return f"Record<string, {_type(schema.get('additionalProperties', {}), names, indent)}>"
    return _PLAIN.get(str(kind), "unknown")


def _array(schema: Mapping[str, Any], names: Mapping[str, str], indent: str) -> str:
    first = [_type(each, names, indent) for each in schema.get("prefixItems", ())]
    if first and schema.get("items", False) is False:
        return f"[{', '.join(first)}]"
    items = _type(schema.get("items", {}), names, indent)
    if first:
        return f"[{', '.join(first)}, ...({items})[]]"
    return f"{items}[]" if _IDENTIFIER.fullmatch(items) else f"({items})[]"
