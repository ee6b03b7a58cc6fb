"""The options of the clients have one definition, which the constructors spell out for people and type checkers."""

import inspect

import pytest

from pystrands import AsyncPyStrandsClient, PyStrands, PyStrandsClient
from pystrands.client.options import Options, ThreadOptions, definition, options_of

KINDS: list[type[Options]] = [AsyncPyStrandsClient, PyStrandsClient, PyStrands]
POSITIONAL = [
    "host",
    "port",
    "auto_reconnect",
    "reconnect_delay",
    "max_reconnect_delay",
    "reconnect_backoff",
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_constructor_has_exactly_the_options_that_are_defined(kind):
    defined = {name: (hint, default) for name, (hint, default, _) in definition(kind).items()}
    if kind is PyStrandsClient:
        del defined["max_concurrency"]  # it is max_workers
    parameters = inspect.signature(kind.__init__).parameters
    spelled = {name: (each.annotation, each.default) for name, each in parameters.items() if name != "self"}
    assert spelled == defined


@pytest.mark.parametrize("kind", KINDS)
def test_what_began_as_positional_stays_so_and_all_else_is_keyword_only(kind):
    parameters = [each for each in inspect.signature(kind.__init__).parameters.values() if each.name != "self"]
    assert [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD] == POSITIONAL
    assert all(each.kind is each.KEYWORD_ONLY for each in parameters[len(POSITIONAL) :])


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_becomes_an_attribute_and_counts(kind):
    given = {"host": "::1", "port": 9, "auto_reconnect": False, "reconnect_delay": 2.0, "max_reconnect_delay": 3.0}
    given |= {"reconnect_backoff": 4.0, "handler_timeout": 5.0, "send_only": True, "name": "n", "token": "t"}
    given |= {"ssl": True, "max_workers": 6, "max_concurrency": 7}
    given = {name: value for name, value in given.items() if name in inspect.signature(kind.__init__).parameters}
    client = kind(**given)
    assert {name: getattr(client, name) for name in given} == given
    options = options_of(client)
    assert {name: getattr(options, name) for name in given} == given
    client.port = 10
    assert (options.port, options_of(client).port) == (9, 10)


def test_threads_bound_how_many_handlers_run():
    client = PyStrandsClient(max_workers=3)
    assert (client.max_workers, client.max_concurrency, options_of(client).max_concurrency) == (3, 3, 3)


def test_every_option_says_what_it_means():
    assert all(meaning for _, _, meaning in definition(ThreadOptions).values())
    assert definition(Options).items() <= definition(ThreadOptions).items()


def test_an_attribute_of_a_users_class_is_no_option():
    class Mine(AsyncPyStrandsClient):
        max_workers = "many"

    options_of(Mine())
