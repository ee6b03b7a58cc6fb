"""The library for backends."""

from pystrands.client.app import PyStrands
from pystrands.client.async_client import AsyncPyStrandsClient
from pystrands.client.confirmation import Confirmation
from pystrands.client.connection.link_info import LinkInfo
from pystrands.client.sync_client import PyStrandsClient

__all__ = ["AsyncPyStrandsClient", "Confirmation", "LinkInfo", "PyStrands", "PyStrandsClient"]
