"""What every benchmark prints and writes beside its figures."""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys

import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]


def parser(doc, quick):
    """A benchmark's options: --quick, held to no bound, and --json FILE."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--quick", action="store_true", help=quick)
    made.add_argument("--json", type=pathlib.Path, metavar="FILE")
    return made


def print_header():
    """Prints the machine, the versions and the commit."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} "
        f"cores, Python {platform.python_version()}, torch "
        f"{torch.__version__}, commit {commit}"
    )
    if torch.cuda.is_available():
        print(f"On {torch.cuda.get_device_name()}.")


def row(name, value, unit, bound=None, at_least=False):
    """A row of a record; a bound is the most, or the least, that is allowed."""
    value = round(value, 2)
    made = {"name": name, "value": value, "unit": unit}
    if bound is not None:
        holds = value >= bound if at_least else value <= bound
        made |= {"bound": bound, "holds": bool(holds)}
    return made


def print_row(row):
    """Prints a row, with its bound and whether it holds."""
    bound = f"  bound {row['bound']}" if "bound" in row else ""
    holds = "" if row.get("holds", True) else "  DOES NOT HOLD"
    print(f"{row['name']:50} {row['value']:10.2f} {row['unit']}{bound}{holds}")


def finish(record, path):
    """Writes the record where it is asked; exit code 1 if a bound fails."""
    if path:
        path.write_text(json.dumps(record, indent=2) + "\n")
    sys.exit(not all(row.get("holds", True) for row in record))
