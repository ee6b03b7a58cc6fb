import copy
import operator
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.headers import Headers


def test_headers_ignore_case():
    headers = Headers({"x-token": ["a"], "X-TOKEN": ["b"]})
    assert headers == {"X-Token": ["a", "b"]}
    assert headers["x-ToKeN"] == ["a", "b"]
    assert headers.get("X-Token", [None])[0] == "a"
    assert headers.get("Authorization", [""])[0] == ""
    assert headers.get("nothing") is None
    assert "x-token" in headers
    assert 7 not in headers  # type: ignore[comparison-overlap]
    headers["accept"] = ["*"]
    assert headers.setdefault("ACCEPT") == ["*"]
    assert headers.pop("Accept") == ["*"]
    assert headers.pop("accept", None) is None
    del headers["x-token"]
    assert headers == {}
    with pytest.raises(KeyError):
        headers["x-token"]


def made(name):
    return Headers({name: ["old"]})


def updated(headers, *args, **named):
    headers.update(*args, **named)
    return headers


@pytest.mark.parametrize(
    "operation",
    [
        lambda: updated(made("x-token"), {"X-TOKEN": ["new"]}),
        lambda: updated(made("x-token"), [("X-TOKEN", ["new"])]),
        lambda: updated(made("x-token"), **{"X-TOKEN": ["new"]}),
        lambda: made("x-token") | {"X-TOKEN": ["new"]},
        lambda: {"x-TOKEN": ["old"]} | Headers({"x-token": ["new"]}),
        lambda: operator.ior(made("x-token"), {"X-TOKEN": ["new"]}),
        lambda: operator.ior(made("x-token"), [("X-TOKEN", ["new"])]),
        lambda: Headers([("x-token", ["new"])]),
        lambda: Headers({"x-token": "new"}),
        lambda: Headers.fromkeys(["x-token"], ["new"]),
        lambda: Headers({"X-Token": ["new"]}).copy(),
        *[
            lambda protocol=protocol: pickle.loads(pickle.dumps(Headers({"X-Token": ["new"]}), protocol))
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ],
        lambda: copy.copy(Headers({"X-Token": ["new"]})),
        lambda: copy.deepcopy(Headers({"X-Token": ["new"]})),
    ],
)
def test_headers_ignore_case_in_every_operation(operation):
    headers = operation()
    assert type(headers) is Headers
    assert len(headers) == 1
    (name,) = headers
    assert headers["x-tOKEN"] == headers.get("X-token") == headers.pop("x-TOKEN") == ["new"]
    assert name == "X-Token"


def test_what_is_joined_leaves_both_as_they_were():
    one, other = made("x-token"), {"X-TOKEN": ["new"]}
    assert (one | other) == other
    assert (other | one) == one == {"x-TOKEN": ["old"]}
    assert other == {"X-TOKEN": ["new"]}
    with pytest.raises(TypeError):
        one | [("x", ["y"])]
    with pytest.raises(TypeError):
        [("x", ["y"])] | one


def test_headers_are_compared_without_case():
    headers = Headers({"X-Token": ["a"]})
    assert headers == {"x-token": ["a"]}
    assert {"x-token": ["a"]} == headers  # noqa: SIM300 - the other way round
    assert headers == Headers({"x-TOKEN": ["a"]})
    assert headers != {"x-token": ["b"]}
    assert headers != {"x-token": ["a"], "X-Token": ["a"]}
    assert headers != {7: ["a"]}
    assert headers != [("X-Token", ["a"])]
    with pytest.raises(TypeError, match="unhashable"):
        hash(headers)


@given(st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="-"), min_size=1))
def test_canonical_names_are_stable(name):
    assert Headers.canonical(Headers.canonical(name)) == Headers.canonical(name)
    assert Headers.canonical(name.lower()) == Headers.canonical(name.upper())
