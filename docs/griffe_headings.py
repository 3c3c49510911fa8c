"""Lets griffe read the headings of SpeechBrain's docstrings."""

import re

import griffe

HEADINGS = {"Arguments": "Parameters", "Example": "Examples"}


class SpeechBrainHeadings(griffe.Extension):
    """Gives griffe the headings of numpydoc in place of SpeechBrain's."""

    def on_module(self, *, mod, **kwargs):
        """Leaves a class to its own module, so that it is shown once."""
        if mod.is_init_module:
            mod.exports = None

    def on_instance(self, *, obj, **kwargs):
        """Renames the headings of one docstring."""
        if obj.is_alias or obj.docstring is None:
            return
        for own, other in HEADINGS.items():
            obj.docstring.value = re.sub(
                rf"^{own}\n-+$",
                f"{other}\n{'-' * len(other)}",
                obj.docstring.value,
                flags=re.MULTILINE,
            )
