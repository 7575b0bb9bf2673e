#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Who may include whom, what each library links, what it exports."""
import argparse
import pathlib
import re
import subprocess
import sys

problems = []


def check(condition, message):
    if not condition:
        problems.append(message)


def sources(root, folders):
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".h", ".cpp", ".cuh", ".td"):
                yield path


def includes(root):
    rules = [
        # folders, what they must not include, why
        (["runtime", "templates"], r"mlir/|llvm/", "LLVM and MLIR are seen by the compiler alone"),
        (["compiler/lib/DSL", "compiler/lib/Recipes"], r"mlir/|llvm/", "the DSL is plain C++"),
        (["compiler", "runtime/core", "runtime/cuda", "runtime/cpu", "templates"], r"ATen/|torch/|c10/",
         "LibTorch is seen by runtime/torch, the tools and the tests alone"),
        (["compiler", "runtime/core", "runtime/cpu", "runtime/torch"], r"cuda\.h|cuda_runtime|nvrtc\.h",
         "CUDA is opened at run time by runtime/cuda"),
        (["runtime/core", "runtime/cuda", "runtime/cpu", "runtime/torch", "compiler/lib", "compiler/include"], r"CLI/",
         "CLI11 is the tools' alone"),
    ]
    for folders, pattern, why in rules:
        regex = re.compile(r'^\s*#\s*include\s*[<"](' + pattern + r")", re.M)
        for path in sources(root, folders):
            for match in regex.finditer(path.read_text()):
                problems.append(f"{path.relative_to(root)} includes {match.group(1)}...: {why}")
    header = root / "compiler/include/hyperjit/DSL.h"
    check("mlir" not in header.read_text().lower().replace("no mlir", ""), f"{header.name} speaks of MLIR")


def variants(root):
    """The compiler knows no variant."""
    names = re.compile(r"\b(manifold|mhc|frac_?connection|permutation_mixture|delayed|deepseek)\b", re.I)
    folders = [f"compiler/{kind}/{name}" for name in ("Dialect", "Conversion", "Target")
               for kind in ("lib", "include/hyperjit")] + ["templates"]
    files = [root / "compiler/lib" / name for name in ("Pipeline.cpp", "Plugin.cpp")]
    for path in [*sources(root, folders), *files]:
        for match in names.finditer(path.read_text()):
            problems.append(f"{path.relative_to(root)} names the variant '{match.group(0)}'")


def instructions(root):
    """What the emulator has to replace is in one place."""
    for path in sources(root, ["templates", "compiler/lib/Conversion", "compiler/lib/Target/Cuda"]):
        if path.name != "device.cuh" and re.search(r"\basm\b(?!\w)\s*(volatile)?\s*\(", path.read_text()):
            problems.append(f"{path.relative_to(root)} has PTX; templates/hyperjit/device.cuh is for that")


def files(root):
    """Every file says its licence, and is about one thing."""
    longer = {"compiler/include/hyperjit/Dialect/HC/IR/HCOps.td", "tests/lit/HC/adjoints.mlir"}
    suffixes = {".cpp", ".h", ".cuh", ".td", ".py", ".mlir", ".cmake"}
    for folder in ("compiler", "runtime", "templates", "tests", "bench", "examples", "cmake"):
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.suffix not in suffixes or "__pycache__" in name:
                continue
            text = path.read_text()
            lines = text.count("\n")
            check(lines < 600 or name in longer, f"{name} has {lines} lines; what are its two subjects?")
            check(path.suffix == ".mlir" or "SPDX-License-Identifier: Apache-2.0" in text, f"{name} does not say its licence")


def needed(library):
    text = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.*)\]", text)


def exported(library):
    text = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    return [line.split()[-1].split("@")[0] for line in text.splitlines() if line.split()]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--libhyperjit", required=True)
    parser.add_argument("--compiler")
    parser.add_argument("--torch")
    options = parser.parse_args()

    includes(options.source)
    variants(options.source)
    instructions(options.source)
    files(options.source)

    foreign = re.compile(r"LLVM|MLIR|torch|c10|cuda|nvrtc")
    for name in needed(options.libhyperjit):
        check(not foreign.search(name), f"libhyperjit.so links {name}")
    check(not [s for s in exported(options.libhyperjit) if re.search(r"4llvm|4mlir", s)], "libhyperjit.so exports LLVM")
    if options.compiler:
        symbols = exported(options.compiler)
        check(symbols == ["hyperjit_compiler"], f"libhyperjit-compiler.so exports {symbols[:10]}")
        allowed = re.compile(r"^(libstdc\+\+|libm|libgcc_s|libc|libz|libzstd|ld-linux.*)\.so")
        for name in needed(options.compiler):
            check(allowed.match(name), f"libhyperjit-compiler.so links {name}")
    if options.torch:
        check("libhyperjit.so" in " ".join(needed(options.torch)), "libhyperjit_torch.so does not link libhyperjit.so")
        check(not [s for s in needed(options.torch) if re.search(r"LLVM|MLIR|libcuda\.|nvrtc", s)],
              "libhyperjit_torch.so links LLVM, libcuda or NVRTC")

    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
