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
