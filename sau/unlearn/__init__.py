"""Unlearning: objectives, redistributions, the stop rule, and the one run that puts them together."""

import sys

from sau import Room

sys.modules[__name__].__class__ = Room
