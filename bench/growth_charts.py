"""The charts of how it grows."""

from bench.results import Results

__all__ = ["of_growth"]


def of_growth(results: Results) -> dict[str, str]:
    """Return the charts, by name of file."""
    return {name: "" for name in results.growth if not name}
