from pystrands.broker.net.peers import address_text


def test_addresses_as_text():
    assert address_text(("192.0.2.1", 80)) == "192.0.2.1:80"
    assert address_text(("2001:db8::1", 0)) == "[2001:db8::1]:0"
