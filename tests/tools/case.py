# What the tests of the command share: where it is, a folder and a cache of their own, how it is called.
# SPDX-License-Identifier: Apache-2.0
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

COMMAND = os.environ["HYPERJIT_TEST_COMMAND"]
OPT = os.environ.get("HYPERJIT_TEST_OPT")
COMPILER = os.environ.get("HYPERJIT_TEST_COMPILER")
RECIPE = os.environ["HYPERJIT_TEST_RECIPE"]
WARM = os.environ["HYPERJIT_TEST_WARM"]
LLVM_AS = shutil.which("llvm-as-22") or shutil.which("llvm-as", path="/usr/lib/llvm-22/bin")
# What the sources define, read here without the command.
RECIPES = sorted(name for file in (pathlib.Path(__file__).parents[2] / "compiler/lib/Recipes").glob("*.cpp")
                 for name in re.findall(r'registry\.define\(\s*"([\w-]+)"', file.read_text()))

needs_compiler = unittest.skipUnless(COMPILER and os.path.exists(COMPILER), "this build has no compiler plugin")


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hyperjit-tools-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.cache = self.folder / "cache"

    def environment(self, **settings):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HYPERJIT_")}
        return {**clean, "HYPERJIT_CACHE_DIR": str(self.cache), **settings}

    def run_command(self, *arguments, **settings):
        return subprocess.run([COMMAND, *arguments], env=self.environment(**settings), capture_output=True, text=True,
                              timeout=300, cwd=self.folder)

    def good(self, *arguments, **settings):
        done = self.run_command(*arguments, **settings)
        self.assertEqual(done.returncode, 0, f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout

    def json(self, *arguments, code=0, command=None, **settings):
        done = self.run_command(*arguments, "--json", **settings)
        self.assertEqual(done.returncode, code, f"{arguments}: {done.stdout}{done.stderr}")
        answer = json.loads(done.stdout)  # stdout is data and nothing else
        self.assertEqual(answer["schema"], f"hyperjit.{command or arguments[0]}/1")
        self.assertRegex(answer["version"], r"^\d+\.\d+\.\d+$")
        self.assertIn("device", answer)
        return answer

    def fails(self, code, message, *arguments, **settings):
        done = self.run_command(*arguments, **settings)
        self.assertEqual(done.returncode, code, f"{arguments}: {done.stdout}{done.stderr}")
        self.assertIn(message, done.stderr)
        self.assertNotIn("terminate called", done.stderr)
        return done

    def nvrtc(self):
        checks = {c["name"]: c for c in json.loads(self.run_command("doctor", "--json").stdout)["checks"]}
        if not checks["nvrtc"]["ok"]:
            self.skipTest("no NVRTC: " + checks["nvrtc"]["found"])


class OneKernel(Case):
    KERNEL = "before(dynamic:n=2,m=1,d=64,dtype=fp32):forward:save:tokens=large"

    def test_is_timed_from_a_pack_alone(self):
        pack = os.path.join(self.folder, "pack")
        self.good("precompile", self.KERNEL, "--out", pack)  # for what runs here ask for, bench as well
        timed = ["bench", self.KERNEL, "--device", "cpu", "--mode", "alone", "--repeats", "1"]
        answer = self.json(*timed, "--tokens", "128", HYPERJIT_JIT="off", HYPERJIT_CACHE_PATH=pack)
        self.assertEqual([(row["mode"], row["tokens"]) for row in answer["rows"]], [("alone", 128)])
        self.assertGreater(answer["rows"][0]["us"]["median"], 0)
        # And what it compiles for itself is for the same target.
        self.json(*timed, "--tokens", "128")
        own = {entry["target"] for entry in self.json("cache", "ls", command="cache-ls")["entries"]}
        self.assertEqual(own, {entry["target"] for entry in self.json("precompile", self.KERNEL)["entries"]})
        # Other schedules than the one that runs, side by side.
        both = self.json(*timed, "--tokens", "128", "--schedule", "auto", "--schedule", "blocks:tokens=4")["rows"]
        self.assertEqual([row["schedule"] for row in both][0], answer["rows"][0]["schedule"])
        self.assertIn("tokens=4,", both[1]["schedule"])
        self.fails(2, "'token=4' is no number of 'blocks'; it takes", *timed, "--tokens", "128", "--schedule", "blocks:token=4")
        self.fails(2, "--schedule is of kernels, and 'dynamic' is none", "bench", "dynamic", "--mode", "alone", "--schedule", "auto")
        self.fails(2, "is not the kernel for 12 tokens; --tokens says how many", *timed, "--tokens", "12")
        self.fails(2, "is a kernel, and kernels are timed by themselves: write --mode alone, or a site", "bench", self.KERNEL, "--device", "cpu")
