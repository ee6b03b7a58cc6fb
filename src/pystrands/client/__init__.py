"""The library for backends."""

from pystrands.client.async_client import AsyncPyStrandsClient

__all__ = ["AsyncPyStrandsClient"]
