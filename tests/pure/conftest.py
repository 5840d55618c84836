"""Pure tests: hypothesis without a deadline, since other tests share the machine's cores."""

from hypothesis import settings

settings.register_profile("millstream", deadline=None)
settings.load_profile("millstream")
