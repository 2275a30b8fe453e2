"""The messages of `virtrigaud.provider.v1`: one short name for the generated package."""

from common.gen.virtrigaud.provider.v1 import *  # noqa: F403  (the generated package defines __all__)
