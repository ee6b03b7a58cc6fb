"""PyStrands beside what else a Python team would pick: ``make bench``."""
