"""The command ``speechbrain-ext``."""
