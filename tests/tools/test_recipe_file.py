#!/usr/bin/env python3
# --recipe FILE.hc: a recorded program in the place of a recipe.
# SPDX-License-Identifier: Apache-2.0
import re
import unittest

from case import RECIPE, Case, needs_compiler


class Recorded(Case):
    def record(self, spec="static:n=2,d=8", name="mine.hc", *arguments):
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_text(self.good("show", spec, "--stage", "recipe", *arguments))
        return name


class Files(Recorded):
    def test_is_a_recipe(self):
        file = self.record("dynamic:n=2,d=8,tanh=false")
        self.assertEqual(self.good("show", "mine:n=2,d=64", "--stage", "recipe", "--recipe", file),
                         (self.folder / file).read_text())
        answer = self.json("recipes", "mine", "--recipe", file)
        self.assertEqual(answer["recipes"][0]["summary"], "the program of mine.hc, recorded for n=2, m=1")
        self.assertEqual({p["initialisation"] for p in answer["recipes"][0]["parameters"]}, {"not recorded"})
        self.assertEqual([p["name"] for p in answer["recipes"][0]["parameters"]],
                         [p["name"] for p in self.json("recipes", "dynamic")["recipes"][0]["parameters"]])
        self.assertIn("mine: the program of mine.hc", self.good("recipes", "--recipe", file))

    def test_every_command_that_takes_specs(self):
        for command in ("show", "precompile", "autotune", "bench", "recipes"):
            self.assertRegex(self.good(command, "--help"), r"--recipe FILE\.hc")
        self.assertIn("--recipe FILE.hc", self.good("cache", "explain", "--help"))

    def test_asks_for_what_was_not_recorded(self):
        file = self.record()
        for spec, message in [("mine:n=4,d=8", "for n=2, m=1; the spec asks for n=4, m=1"),
                              ("mine:d=8", "for n=2, m=1; the spec asks for n=4, m=1"),
                              ("mine:n=2,m=2,d=8", "for n=2, m=1; the spec asks for n=2, m=2"),
                              ("mine:n=2,d=8,tanh=false", "with its options in it; the spec asks for tanh=false")]:
            self.fails(2, f"recipe 'mine' is the program of mine.hc, recorded {message}", "show", spec, "--recipe", file)

    def test_files_that_are_no_program(self):
        (self.folder / "empty.hc").write_text("\n \n")
        (self.folder / "binary.hc").write_bytes(b"hc\0func")
        (self.folder / "prose.hc").write_text("// a comment\nOnce upon a time\n")
        (self.folder / "folder.hc").mkdir()
        (self.folder / "Upper.hc").write_text(self.good("show", "static:n=2,d=8", "--stage", "recipe"))
        self.record("static:n=2,d=8", "static.hc")
        self.record("boundary(static:n=2,d=8|dynamic:n=2,d=8)", "two.hc")
        text = (self.folder / "static.hc").read_text()
        (self.folder / "typo.hc").write_text(text.replace("{axis = ", "{bogus = 1 : i64, axis = ", 1))
        self.record("dynamic:n=2,d=8", "infinite.hc")
        text_of_norm = (self.folder / "infinite.hc").read_text()
        (self.folder / "infinite.hc").write_text(re.sub(r"eps = [^ ]+ ", "eps = 0x7FF0000000000000 ", text_of_norm, count=1))
        (self.folder / "cut.hc").write_text(text[: len(text) // 2])
        (self.folder / "deep.hc").write_text(text.replace("hc.operand = ", "hc.deep = " + "[" * 10000 + "]" * 10000 + ", hc.operand = ", 1))
        for file, message in [("absent.hc", "the file cannot be read"), ("folder.hc", "the file cannot be read"),
                              ("empty.hc", "the file is empty"),
                              ("binary.hc", "the file looks binary (byte 2 is 0x00); the text of a recorded program is wanted"),
                              ("prose.hc", "line 2: 'hc.func' is expected, found 'Once'; a recorded program is what"),
                              ("two.hc", ": a second program begins; one file holds one"), ("cut.hc", "line "),
                              ("typo.hc", "hc.slice has no attribute 'bogus'"),
                              ("infinite.hc", "hc.norm: eps = 0x7FF0000000000000 : f64; numbers of a program are finite, and decimal"),
                              ("deep.hc", "an attribute is nested more than 64 deep"),
                              ("Upper.hc", "'Upper' is no name of a recipe; a name has lower case letters"),
                              ("static.hc", "there is a recipe 'static' already; a recipe is called as its file is, so give the file")]:
            with self.subTest(file):
                done = self.fails(2, message, "show", "static:n=2,d=8", "--stage", "recipe", "--recipe", file)
                self.assertTrue(done.stderr.startswith(f"hyperjit: --recipe {file}: "), done.stderr)
                self.assertEqual(done.stdout, "")

    def test_names(self):
        self.record(name="a/mine.hc")
        self.record(name="b/mine.hc")
        self.record(name="other.hc")
        self.fails(2, "--recipe b/mine.hc: recipe 'mine' is --recipe a/mine.hc already", "recipes", "--recipe", "a/mine.hc",
                   "--recipe", "b/mine.hc")
        both = self.json("recipes", "--recipe", "a/mine.hc", "--recipe", "other.hc")
        self.assertLess({"mine", "other"}, {r["name"] for r in both["recipes"]})
        # A library's recipes are there first.
        self.record("tools-test:n=2,d=8", "tools-test.hc", "--load", RECIPE)
        self.fails(2, "there is a recipe 'tools-test' already", "recipes", "--load", RECIPE, "--recipe", "tools-test.hc")

    def test_bench_needs_initial_values(self):
        file = self.record()
        done = self.run_command("bench", "mine:n=2,d=8", "--recipe", file, "--against", "none", "--tokens", "8", "--device", "cpu")
        if done.returncode == 3 and "this build has no LibTorch part" in done.stderr:
            self.skipTest("this build has no LibTorch part")
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("parameter 'static_alpha' of recipe 'mine' has no initial value: the recipe is a recorded program", done.stderr)


@needs_compiler
class Kernels(Recorded):
    def test_the_same_kernels(self):
        for spec in ("manifold:n=4,d=64", "delayed-pre:n=2,d=64"):
            file = self.record(spec)
            mine = "mine:" + spec.split(":")[1]

            def shown(spec, *arguments):
                return [self.good("show", spec, *what, *arguments) for what in
                        (["--traffic"], ["--stage", "cuda"], ["--stage", "cuda", "--direction", "backward"])]

            for ours, theirs in zip(shown(mine, "--recipe", file), shown(spec)):
                # A kernel's own name has a digest of its spec in it, and the spec has the recipe's name.
                self.assertEqual(re.sub(r"ward_[0-9a-f]{8}", "ward", ours), re.sub(r"ward_[0-9a-f]{8}", "ward", theirs))

    def test_the_same_keys(self):
        # The recipe's name stands in a key, so the text of a recipe under its own name finds what the library compiled.
        file = self.record("tools-test:n=2,d=8", "tools-test.hc", "--load", RECIPE)
        kernels = self.json("precompile", "tools-test:n=2,d=8", "--load", RECIPE)
        again = self.json("precompile", "tools-test:n=2,d=8", "--recipe", file)
        self.assertEqual((again["compiled"], again["cached"], again["failed"]), (0, kernels["compiled"], []))
        self.assertEqual([e["key"] for e in again["entries"]], [e["key"] for e in kernels["entries"]])
        self.good("cache", "explain", "tools-test:n=2,d=8", "--recipe", file)
        # Another program under that name is not found.
        text = (self.folder / file).read_text()
        self.assertIn("hc.softmax", text)
        (self.folder / file).write_text(text.replace("hc.softmax", "hc.tanh"))
        other = self.json("precompile", "tools-test:n=2,d=8", "--recipe", file)
        self.assertEqual((other["compiled"], other["cached"]), (kernels["compiled"], 0))

    def test_the_compiler_refuses_as_users_are_refused(self):
        file = self.record()
        text = (self.folder / file).read_text()
        (self.folder / file).write_text(text.replace("hc.transpose", "hc.tanh"))
        done = self.fails(2, "'hc.tanh' op requires the same type for all operands and results", "show", "mine:n=2,d=8", "--recipe", file)
        self.assertNotIn("report", done.stderr)

    def test_autotune_measures_it(self):
        file = self.record()
        answer = self.json("autotune", "mine:n=2,d=8", "--recipe", file, "--role", "after", "--direction", "forward", "--tokens", "64",
                           "--budget", "2", "--out", "mine.jsonl")
        self.assertEqual(len(answer["results"]), 1)
        self.assertTrue(answer["results"][0]["spec"].startswith("after(mine:"))


if __name__ == "__main__":
    unittest.main()
