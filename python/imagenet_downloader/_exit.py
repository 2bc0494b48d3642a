"""Ends the native calls of all threads before the interpreter ends; imported by the first call."""

import atexit

from . import _native

# The native function itself: no signal handler can run in it and stop it half-way.
atexit.register(_native.end)
