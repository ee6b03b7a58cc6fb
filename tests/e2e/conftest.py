import asyncio
import itertools
import ssl
import sys
from pathlib import Path

import pytest
import trustme

from pystrands.testing.brokers import LocalBroker
from tests.nats_server import NatsServer

from .broker_process import BrokerProcess
from .raw_broker import RawBroker

HERE = Path(__file__).parent
NOWHERE = "127.0.0.1:1"
WITHOUT_ENGINE = {
    *("test_backend_tls", "test_backend_tokens", "test_given_sockets", "test_limits", "test_log_secrets"),
    *("test_optimised", "test_probes", "test_short_of_resources", "test_strangers", "test_tls", "test_wrong_port"),
}
"""What ends before an engine gets anything (sockets, TLS, tokens), or begins its brokers itself."""


def pytest_collection_modifyitems(config, items):
    """With ``--engine nats`` run what that may change; the rest has been run without."""
    if config.getoption("engine") == "memory":
        return
    left_out = [each for each in items if each.path.parent == HERE and each.path.stem in WITHOUT_ENGINE]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [each for each in items if each not in set(left_out)]


@pytest.fixture(scope="session", autouse=True)
def engine(request):
    """With ``--engine nats`` each broker is alone in a cluster of its own, where it was no part of one before.

    What it advertises is a port where nobody is, so that backends don't go past the proxies that tests put before it.
    """
    if request.config.getoption("engine") == "memory":
        yield
        return
    numbers = itertools.count(1)
    init, init_process = LocalBroker.__init__, BrokerProcess.__init__
    with NatsServer() as nats, pytest.MonkeyPatch.context() as patch:

        def in_a_cluster(self, **options):
            more = {"nats_url": (nats.url,), "cluster": f"local-{next(numbers)}", "advertise": NOWHERE}
            init(self, **(more | options))

        def process_in_a_cluster(self, *flags):
            init_process(self, f"--nats-url={nats.url}", f"--cluster=process-{next(numbers)}", *flags)

        patch.setattr(LocalBroker, "__init__", in_a_cluster)
        patch.setattr(BrokerProcess, "__init__", process_in_a_cluster)
        yield


def pytest_asyncio_loop_factories(config, item):
    """Run the broker's tests on what it runs on: uvloop, where there is one; in a few files on asyncio, too."""
    if sys.platform == "win32":
        return {"asyncio": asyncio.new_event_loop}
    import uvloop

    if item.module.__name__.endswith(("test_messages", "test_backend_tls")):
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def raw_broker():
    async with RawBroker() as broker:
        yield broker


@pytest.fixture(scope="module")
def ca():
    return trustme.CA()


@pytest.fixture
def tls(ca, tmp_path):
    """The broker's options for TLS on the backends' port; ``ca.pem`` is there, too."""
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "broker.pem")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    return {"backend_tls_cert": str(tmp_path / "broker.pem")}


@pytest.fixture
def trusting(ca):
    """A backend's TLS context, which trusts that broker."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context
