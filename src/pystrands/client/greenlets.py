"""Processes in which a library has replaced threads by greenlets, which all run on one thread of the system."""

import sys

__all__ = ["no_threads"]


def no_threads() -> str:
    """Return why there are no threads in this process, and what to do, in words for people; empty where there are."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("threading"):
        name, instead = "gevent", "monkey.patch_all(thread=False), or gunicorn's worker class gthread"
    elif eventlet is not None and eventlet.is_monkey_patched("thread"):
        name, instead = "eventlet", "monkey_patch(thread=False), or gunicorn's worker class gthread"
    else:
        return ""
    return f"PyStrands needs threads of the system, and {name} has replaced them in this process: use {instead}"
