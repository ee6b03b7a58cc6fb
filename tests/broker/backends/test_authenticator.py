"""Who may be a backend, without sockets."""

import hmac
import logging
from collections import Counter
from typing import Any

import pytest

from pystrands.broker.backends import authenticator as module
from pystrands.broker.backends.authenticator import MISSING, OLD, TOO_LONG, WRONG, LinkAuthenticator, read_tokens
from pystrands.errors import ConfigError
from pystrands.protocol.messages import SENDER, TOOL, HelloParams


class Stranger:
    def __init__(self, name="stranger"):
        self.name = name
        self.is_cut = False

    def abort(self):
        self.is_cut = True


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def authenticator(*tokens, **options: Any):
    defaults: dict[str, Any] = {"clock": Clock(), "counters": Counter()}
    made = LinkAuthenticator(**(defaults | options))
    made.take(tokens)
    return made


def hello(token="", **more: Any):
    defaults: dict[str, Any] = {"protocol": 2, "session_id": "s"}
    return HelloParams(**(defaults | more), token=token)


def test_without_tokens_everybody_may_be_a_backend():
    for each in (None, hello(), hello("any"), hello(protocol=1), hello(role=TOOL)):
        assert authenticator().hello_problem(each) == ""


def test_each_of_the_tokens_is_enough():
    several = authenticator("old", "new")
    assert [several.hello_problem(hello(token)) for token in ("old", "new", "", "ol", "oldnew")] == [
        "",
        "",
        MISSING,
        WRONG,
        WRONG,
    ]
    several.take(["new"])
    assert [several.hello_problem(hello(token)) for token in ("old", "new")] == [WRONG, ""]


@pytest.mark.parametrize("more", [{"role": SENDER}, {"role": TOOL}, {"role": TOOL, "protocol": 1, "session_id": ""}])
def test_tools_and_senders_need_a_token_too(more):
    assert authenticator("right").hello_problem(hello("right", **more)) == ""
    assert authenticator("right").hello_problem(hello("wrong", **more)) == WRONG
    assert authenticator("right").hello_problem(hello(**more)) == MISSING


@pytest.mark.parametrize("said", [None, hello("right", protocol=1), hello("right", session_id="")])
def test_protocol_1_and_silence_are_refused_where_there_are_tokens(said):
    assert authenticator("right").hello_problem(said) == OLD


def test_tokens_are_compared_in_constant_time_with_every_one(monkeypatch):
    compared = []

    def compare(one, other):
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    class Spy:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(module, "hmac", Spy)
    several = authenticator("one", "a much longer token", "three")
    for token in ("one", "three", "wrong", "x" * 60_000, "\ud800"):
        compared.clear()
        several.hello_problem(hello(token))
        assert compared == [(32, 32)] * 3


def test_no_token_is_kept_or_shown():
    guarded = authenticator("the secret token")
    link = Stranger()
    guarded.enter(link, "192.0.2.1")
    guarded.refuse(link, "192.0.2.1", guarded.hello_problem(hello("a wrong one")))
    assert "the secret token" not in str(vars(guarded))
    assert "secret" not in repr(hello("secret"))
    assert "session_id='s'" in repr(hello("secret"))


def test_only_wrong_tokens_are_answered_late():
    guarded = authenticator("right")
    link = Stranger()
    for reason in (OLD, MISSING, TOO_LONG):
        assert guarded.refuse(link, "192.0.2.1", reason) == guarded.refuse(link, "192.0.2.1", reason) == 0
    delays = [guarded.refuse(link, "192.0.2.1", guarded.hello_problem(hello("x"))) for _ in range(10)]
    assert delays == sorted(delays)
    assert 0 < delays[0] < delays[-1] <= 5
    assert guarded.hello_problem(hello("right")) == ""


def test_a_crowd_of_one_address_goes_at_its_own_expense():
    counters = Counter()
    small = authenticator(undecided=10, of_one_origin=3, counters=counters)
    honest = Stranger()
    small.enter(honest, "192.0.2.1")
    crowd = [Stranger() for _ in range(100)]
    for each in crowd:
        small.enter(each, "203.0.113.9")
    assert not honest.is_cut
    assert [each.is_cut for each in crowd] == [True] * 97 + [False] * 3
    assert counters["link_crowded_out"] == 97
    assert len(small) == 4


def test_a_crowd_of_many_addresses_has_the_oldest_cut_off():
    small = authenticator(undecided=10, of_one_origin=3)
    crowd = [Stranger() for _ in range(100)]
    for number, each in enumerate(crowd):
        small.enter(each, f"203.0.113.{number}")
    assert [each.is_cut for each in crowd] == [True] * 90 + [False] * 10


def test_a_few_addresses_that_fill_it_are_the_ones_that_make_room():
    small = authenticator(undecided=10, of_one_origin=5)
    honest = Stranger()
    small.enter(honest, "192.0.2.1")
    crowd = [Stranger() for _ in range(99)]
    for number, each in enumerate(crowd):
        small.enter(each, f"203.0.113.{number % 3}")
    assert not honest.is_cut
    assert len(small) == 10


def test_who_has_been_decided_on_is_not_cut_off_and_leaves_room():
    small = authenticator(undecided=10, of_one_origin=3)
    decided = [Stranger() for _ in range(50)]
    for each in decided:
        small.enter(each, "192.0.2.1")
        small.leave(each)
        small.leave(each)
    small.enter(Stranger(), "192.0.2.1")
    assert not any(each.is_cut for each in decided)
    assert len(small) == len(small._by_origin) == 1


def test_what_is_logged_about_strangers_is_bounded(caplog):
    clock = Clock()
    noisy = authenticator("right", clock=clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            noisy.refuse(Stranger("backend 7 (192.0.2.1:5)"), "192.0.2.1", WRONG)
        assert len(caplog.messages) == 10
        assert caplog.messages[0] == "backend 7 (192.0.2.1:5) is refused: the token is wrong"
        clock.now += 1.0
        noisy.refuse(Stranger("%s (192.0.2.1:6)"), "192.0.2.1", WRONG)
        noisy.refuse(Stranger(), "192.0.2.1", WRONG)
    assert caplog.messages[10:] == [
        "%s (192.0.2.1:6) is refused: the token is wrong (990 more warnings like this were left out)"
    ]


def test_a_file_of_tokens_has_one_a_line(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("# in use\n  first \n\nsecond, with a comma\n")
    assert read_tokens(str(path)) == ("first", "second, with a comma")


@pytest.mark.parametrize("content", [b"", b"\n# none\n", b"\xff\xfe"])
def test_a_file_without_tokens_is_no_open_door(tmp_path, content):
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="backend_token_file"):
        read_tokens(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"can't read .*missing: No such file"):
        read_tokens(str(tmp_path / "missing"))
