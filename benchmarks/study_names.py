"""How tables and plots name the systems and conditions of the studies."""

NAMES = {
    "aam": "AAM",
    "csphereface2": "C-SphereFace2",
    "asphereface2": "A-SphereFace2",
    "am": "AM",
    "softmax": "softmax",
    "aam_subcenter": "AAM, three sub-centers, inter-top-5",
    "aam_subcenter top_k 0": "AAM, three sub-centers",
    "angularprototypical": "angular prototypical",
    "csphereface2_face": "C-SphereFace2, face form",
    "msphereface2_face": "M-SphereFace2, face form",
    "published_aam": "AAM, WeSpeaker's code",
    "published_csphereface2": "C-SphereFace2, WeSpeaker's code",
    "published_asphereface2": "A-SphereFace2, WeSpeaker's code",
    "aam_large_margin": "AAM, large margin",
    "csphereface2_large_margin": "C-SphereFace2, large margin",
    "asphereface2_large_margin": "A-SphereFace2, large margin",
    "csphereface2_93_updates": "C-SphereFace2, 93 updates an epoch",
}

# Trial list and scoring, in the order of the tables
CONDITIONS = [
    ("veri_O", "cosine"),
    ("veri_O", "AS-norm"),
    ("veri_H", "cosine"),
    ("veri_H", "AS-norm"),
]


def named(line):
    """The name of a line: that of its loss, and its own options."""
    for name in sorted(NAMES, key=len, reverse=True):
        if line == name or line.startswith(f"{name} "):
            return NAMES[name] + line[len(name) :]
    return line


def in_order(conditions):
    """Conditions in the order of the tables; unknown ones at the end."""
    known = {one: place for place, one in enumerate(CONDITIONS)}
    return sorted(conditions, key=lambda one: known.get(one, len(known)))
