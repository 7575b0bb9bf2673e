#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every source is as .clang-format has it. Another version of clang-format has other ideas: skipped (77) without this one."""
import argparse
import pathlib
import subprocess
import sys

VERSION = "14.0.6"  # scripts/setup installs it
FOLDERS = ["bench", "compiler", "examples", "runtime", "templates", "tests"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=pathlib.Path, required=True)
    root = parser.parse_args().source
    tool = root / ".venv/bin/clang-format"
    found = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout if tool.exists() else ""
    if f"version {VERSION} " not in found:
        print(f"{tool} is not clang-format {VERSION} (scripts/setup installs it)")
        return 77
    files = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*"))
             if path.suffix in (".h", ".cpp", ".cuh")]
    assert files, f"no sources under {root}"
    wrong = subprocess.run([tool, "--dry-run", *files], capture_output=True, text=True).stderr
    print(wrong or f"{len(files)} files")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
