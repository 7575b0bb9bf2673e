#!/usr/bin/env python3
# The `hyperjit` command: what it prints, its JSON, its exit codes (0 ok, 1 a problem was found, 2 usage, 3 environment).
# SPDX-License-Identifier: Apache-2.0
import json
import os
import re
import shutil
import subprocess
import unittest

from case import COMMAND, Case, LLVM_AS, OPT, RECIPE, RECIPES, needs_compiler


class Usage(Case):
    def test_version_and_help(self):
        self.assertRegex(self.good("--version"), r"^hyperjit \d+\.\d+\.\d+\n$")
        commands = ["demo", "show", "precompile", "autotune", "bench", "cache", "recipes", "env", "doctor"]
        for command in commands:
            self.assertIn(command, self.good("--help"))
            text = self.good(command, "--help")
            self.assertEqual(len(re.findall(r"^  hyperjit " + command, text.split("Examples:")[1], re.M)), 2, text)

    def test_unknown_words_name_the_nearest(self):
        for message, arguments in [
            ("unknown command 'shwo'; did you mean 'show'? There are: demo, show,", ["shwo", "static"]),
            ("unknown command of cache 'veryfy'; did you mean 'verify'? There are: path, ls,", ["cache", "veryfy"]),
            ("unknown option of show 'stge'; did you mean 'stage'?", ["show", "static", "--stge", "hc"]),
            ("unknown option of precompile 'targte'; did you mean 'target'?", ["precompile", "static", "--targte=native"]),
            ("unknown stage 'fuse'; did you mean 'fused'? There are: recipe, hc,", ["show", "static", "--stage", "fuse"]),
            ("unknown recipe 'manifol'; did you mean 'manifold'? There are: deepseek,", ["show", "manifol:n=4"]),
            ("unknown recipe 'manifodl'; did you mean 'manifold'?", ["recipes", "manifodl"]),
            ("unknown option of recipe 'dynamic' 'tnah'; did you mean 'tanh'?", ["show", "dynamic:n=4,tnah=off"]),
            ("unknown value of option 'norm' 'layernrom'; did you mean 'layernorm'?", ["show", "dynamic:norm=layernrom"]),
            ("unknown value of dtype 'bf61'; did you mean 'bf16'?", ["show", "static:dtype=bf61"]),
            ("unknown target 'sm_90/h100'; did you mean 'sm_90a/h100'?", ["show", "static", "--target", "sm_90/h100"]),
            ("unknown target 'sm_90'; did you mean 'sm_90a'?", ["show", "static", "--target", "sm_90"]),
            ("unknown target 'sm_777'", ["precompile", "static", "--target", "native,sm_777"]),
        ]:
            with self.subTest(arguments):
                self.fails(2, message, *arguments)

    def test_impossible_specs(self):
        for message, spec in [
            ("n=0: n takes a whole number of at least 1", "static:n=0"),
            ("m=3 does not divide d=512 of frac", "frac:n=1,m=3"),
            ("n m = 33 x 1 = 33 rows of static: fused kernels take at most 32", "static:n=33"),
            ("recipe 'permutation' takes n <= 5, the spec has n = 6", "permutation:n=6"),
            ("is not key=value; a spec is recipe[:key=value,...]", "static:n"),
            ("does not start with a recipe's name", ":n=4"),
            ("names one site; a boundary is written boundary(spec|spec)", "boundary(static)"),
            ("names 3 sites; a boundary is written boundary(spec|spec)", "boundary(static|static|static)"),
            ("the sites of a boundary share their streams", "boundary(static:n=2|static:n=4)"),
            ("takes letters of 'x' for after", "after(static):backward:given=u:want=x:tokens=large"),
        ]:
            with self.subTest(spec):
                self.fails(2, message, "show", spec)

    def test_missing_and_wrong_arguments(self):
        self.fails(2, "A subcommand is required")
        self.fails(2, "A subcommand is required", "cache")
        self.fails(2, "SPEC is required", "show")
        self.fails(2, "befor not in {before,boundary,after}", "show", "static", "--role", "befor")
        self.fails(2, "no spec given; write one like manifold:n=4,d=4096,dtype=bf16", "precompile")
        self.fails(2, "--specs absent.txt: the file cannot be read", "precompile", "--specs", "absent.txt")
        (self.folder / "binary.txt").write_bytes(b"static\n\x7fELF\x02")
        self.fails(2, "--specs binary.txt: the file looks binary (byte 7 is 0x7f); a spec a line is wanted", "precompile", "--specs", "binary.txt")
        self.fails(2, "--load absent.so: ", "recipes", "--load", "absent.so")
        self.fails(2, "absent.hjpack cannot be opened: No such file or directory", "cache", "unpack", "absent.hjpack")
        for message, arguments in [("--tokens: 0 is not a whole number from 1 to 4294967296", ["bench", "static", "--tokens", "64,0"]),
                                   ("--tokens: 1e3 is not a whole number from 1 to", ["bench", "static", "--tokens", "1e3"]),
                                   ("--tokens: 9223372036854775807 is not a whole number from 1 to", ["bench", "static", "--tokens", "9223372036854775807"]),
                                   ("--repeats: 1.5 is not a whole number from 1 to", ["bench", "static", "--repeats", "1.5"]),
                                   ("--steps: 0 is not a whole number from 1 to", ["demo", "--steps", "0"]),
                                   ("--dim: wide is not a whole number from 1 to", ["demo", "--dim", "wide"]),
                                   ("--layers: 4611686018427387904 is not a whole number from 1 to 1000", ["demo", "--layers", "4611686018427387904"]),
                                   ("--budget: -3 is not a number above 0", ["autotune", "static", "--budget", "-3"]),
                                   ("--jobs: -1 is not a whole number from 1 to 1024", ["precompile", "static", "--jobs", "-1"]),
                                   ("--timeout: nan is not a number above 0", ["autotune", "static", "--timeout", "nan"])]:
            with self.subTest(arguments):
                self.fails(2, message, *arguments)
        self.fails(2, "no entry's key starts with 'zz'", "cache", "show", "zz")
        self.fails(2, "--sites: Value 100000000 not in range 1 to 1000", "bench", "static", "--sites", "100000000")
        self.fails(2, "--seed: -1 is no whole number from 0 to", "demo", "--seed", "-1")
        self.fails(2, "--seed: 99999999999999999999 is no whole number", "demo", "--seed", "99999999999999999999")
        self.fails(2, f"{self.folder} is a folder; a pack is one file", "cache", "unpack", self.folder)
        self.fails(2, f"--log {self.folder}: the file cannot be read", "cache", "missing", "--log", self.folder)

    def test_words_that_contradict_each_other(self):
        kernel = "before(static:n=2,d=8):forward:infer:tokens=large"
        for message, arguments in [("which says itself what --role, --direction and --tokens say", ["show", kernel, "--tokens", "small"]),
                                   ("--traffic and --stage show different things", ["show", "static", "--traffic", "--stage", "hc"]),
                                   ("--cut needs --stage", ["show", "static", "--cut", "late"]),
                                   ("--cut is of the backward of a boundary", ["show", "static", "--cut", "late", "--stage", "phases"]),
                                   ("--schedule needs --stage", ["show", "static", "--schedule", "blocks:tokens=8"]),
                                   ("--schedule changes the stages emitc, cuda", ["show", "static", "--schedule", "auto", "--stage", "phases"]),
                                   ("--plot and --json both name 'a.json'", ["bench", "static", "--plot", "a.json", "--json", "a.json"]),
                                   ("--plot and --json both name './a.json'", ["bench", "static", "--plot", "a.json", "--json", "./a.json"]),
                                   ("--plot and --json both name 'a.json'", ["demo", "--plot", "a.json", "--json", "a.json"]),
                                   ("--plot -: only JSON goes to the standard output", ["demo", "--plot", "-"]),
                                   ("--plot -: only JSON goes to the standard output", ["bench", "static", "--plot", "-"])]:
            with self.subTest(arguments):
                self.fails(2, message, *arguments)

    def test_an_option_takes_one_word(self):
        (self.folder / "mine.hc").write_text(self.good("show", "static:n=2,d=8", "--stage", "recipe"))
        self.good("show", "--recipe", "mine.hc", "mine:n=2,d=8", "--traffic")
        self.fails(2, "unknown recipe 'manifol'", "bench", "--tokens", "10,20", "manifol")
        self.fails(2, "unknown recipe 'manifol'", "bench", "--mode", "alone", "--json", "manifol")
        self.fails(2, "unknown recipe 'manifol'", "autotune", "--tokens", "64", "manifol")

    def test_output_goes_where_it_is_told(self):
        os.mkfifo(self.folder / "pipe")
        reader = subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE, text=True, cwd=self.folder)
        self.good("env", "--json=pipe")
        self.assertIn("hyperjit.env/1", reader.communicate(timeout=60)[0])
        self.assertTrue((self.folder / "pipe").is_fifo())
        (self.folder / "file").write_text("old")
        (self.folder / "link").symlink_to("file")
        self.good("env", "--json=link")
        self.assertTrue((self.folder / "link").is_symlink())
        self.assertIn("hyperjit.env/1", (self.folder / "file").read_text())
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["file", "link", "pipe"])
        # A link to what is not there yet, and a file that a shell appends to.
        (self.folder / "early").symlink_to("later")
        self.good("env", "--json=early")
        self.assertTrue((self.folder / "early").is_symlink())
        self.assertIn("hyperjit.env/1", (self.folder / "later").read_text())
        with open(self.folder / "log", "a") as log:
            log.write("before\n")
            log.flush()
            subprocess.run([COMMAND, "env", "--json=/dev/stdout"], env=self.environment(), stdout=log, cwd=self.folder, check=True)
        self.assertRegex((self.folder / "log").read_text(), r"^before\n\{")

    def test_an_output_that_is_lost_is_no_success(self):
        for arguments in (["env"], ["show", "static", "--stage", "recipe"], ["recipes", "--json"], ["--help"]):
            with self.subTest(arguments), open("/dev/full", "w") as full:
                done = subprocess.run([COMMAND, *arguments], env=self.environment(), stdout=full, stderr=subprocess.PIPE, text=True,
                                      cwd=self.folder)
                self.assertEqual(done.returncode, 3, done.stderr)
                self.assertEqual("hyperjit: not all could be written to the standard output\n", done.stderr)

    def test_what_cannot_be_written_is_refused_before_the_work(self):
        (self.folder / "folder.json").mkdir()
        (self.folder / "folder.json/file").write_text("")
        for message, arguments in [("cannot write 'absent/a.json': absent: No such file or directory", ["precompile", "static", "--json", "absent/a.json"]),
                                   ("cannot write 'folder.json': it is a folder", ["recipes", "--json", "folder.json"]),
                                   ("cannot write 'absent/a.svg'", ["bench", "static", "--plot", "absent/a.svg"]),
                                   ("cannot write 'absent/a.svg'", ["demo", "--plot", "absent/a.svg"]),
                                   ("cannot write 'absent/a.json'", ["demo", "--json", "absent/a.json"]),
                                   ("--out folder.json/file: Not a directory", ["precompile", "static", "--out", "folder.json/file"]),
                                   ("HYPERJIT_CACHE=ro keeps the cache folder as it is", ["autotune", "static:n=2,d=32"])]:
            with self.subTest(arguments):
                done = self.fails(3, message, *arguments, HYPERJIT_CACHE="ro" if "HYPERJIT_CACHE" in message else "rw")
                self.assertEqual(done.stdout, "")
        self.assertFalse((self.folder / "cache").exists())


class Recipes(Case):
    def test_lists_every_recipe(self):
        text = self.good("recipes")
        for recipe in RECIPES:
            self.assertRegex(text, rf"(?m)^{recipe}: \S")
        answer = self.json("recipes")
        self.assertEqual([r["name"] for r in answer["recipes"]], RECIPES)
        for recipe in answer["recipes"]:
            self.assertTrue(recipe["summary"] and recipe["equation"] and recipe["paper"] and recipe["parameters"])
            for option in recipe["options"]:
                self.assertEqual(set(option), {"name", "default", "values", "meaning", "kernel"})
            for parameter in recipe["parameters"]:
                self.assertEqual(set(parameter), {"name", "shape", "dtype", "initialisation"})

    def test_one(self):
        answer = self.json("recipes", "static")
        self.assertEqual([r["name"] for r in answer["recipes"]], ["static"])
        self.assertEqual([(p["name"], p["shape"]) for p in answer["recipes"][0]["parameters"]],
                         [("static_alpha", [4, 5]), ("static_beta", [4])])

    def test_a_word_after_json_is_no_file(self):
        kept = self.folder / "static"
        kept.write_text("mine")
        for arguments in (["recipes", "--json", "static"], ["recipes", "static", "--json"], ["recipes", "--json", "-", "static"]):
            self.assertEqual([r["name"] for r in json.loads(self.good(*arguments))["recipes"]], ["static"], arguments)
        self.assertEqual(kept.read_text(), "mine")
        for file, arguments in [("one.json", ["--json", "one.json"]), ("any name", ["--json=any name"])]:
            self.assertEqual(self.good("recipes", *arguments, "static"), "")
            self.assertEqual([r["name"] for r in json.loads((self.folder / file).read_text())["recipes"]], ["static"])
        self.assertIn("if it ends in .json", " ".join(self.good("recipes", "--help").split()))

    def test_load(self):
        answer = self.json("recipes", "tools-test", "--load", RECIPE)
        self.assertEqual([p["name"] for p in answer["recipes"][0]["parameters"]], ["read", "gate", "beta"])
        # What define throws cannot pass through the loader.
        shutil.copy(RECIPE, self.folder / "again.so")
        self.fails(2, "--load again.so: define: a recipe named 'tools-test' exists already", "recipes", "--load", RECIPE,
                   "--load", "again.so")

    @needs_compiler
    def test_demo_trains_recipes_of_ones_own(self):
        text = self.folder / "text.txt"
        text.write_text("the quick brown fox jumps over the lazy dog. " * 40)
        done = self.run_command("demo", "--load", RECIPE, "--variants", "tools-test,static", "--text", text, "--dim", "32", "--layers", "1",
                                "--context", "8", "--batch", "2", "--steps", "2", "--device", "cpu", "--plot", "none", "--json")
        if done.returncode == 3 and "this build has no LibTorch part" in done.stderr:
            self.skipTest("this build has no LibTorch part")
        self.assertEqual(done.returncode, 0, done.stderr)
        own, shipped = json.loads(done.stdout)["runs"]
        # There are no formulas to hold it against.
        self.assertTrue(len(own["loss"]) == 2 and own["jit"]["compiled"] > 0 and own["connection_ms"]["jit"] > 0, own)
        self.assertEqual([own[key] for key in ("eager_step_ms", "speedup", "max_output_error", "max_gradient_error")], [None] * 4)
        self.assertTrue(shipped["max_output_error"] < 1e-4 and shipped["eager_step_ms"]["median"] > 0, shipped)
        # What there is not is said before anything is trained.
        self.fails(2, "variant 'mine'", "demo", "--variants", "plain,mine", "--text", text)

    @needs_compiler
    def test_what_would_be_saved_in_vain(self):
        kernel = "before(tools-deep:n=2,d=8):forward:{}:tokens=small"
        self.good("precompile", kernel.format("infer"), "--load", RECIPE)
        done = self.fails(2, "its backward is refused, so nothing is saved for it", "precompile", kernel.format("save"),
                          "--load", RECIPE)
        self.assertIn("kernels have at most 6", done.stderr)


class Environment(Case):
    def test_env(self):
        text = self.good("env", HYPERJIT_LOG="info")
        self.assertRegex(text, r"(?m)^HYPERJIT_LOG +info +environment ")
        self.assertRegex(text, r"(?m)^HYPERJIT_CACHE +rw +default ")
        settings = {s["name"]: s for s in self.json("env")["settings"]}
        self.assertEqual(settings["HYPERJIT_CACHE_DIR"]["value"], str(self.cache))
        self.assertEqual(settings["HYPERJIT_CACHE_DIR"]["from"], "environment")

    def test_typos_are_a_problem(self):
        self.fails(1, "HYPERJIT_CACHE_DRI is set but means nothing; did you mean HYPERJIT_CACHE_DIR?", "env",
                   HYPERJIT_CACHE_DRI="/x")
        self.assertEqual(self.json("env", code=1, HYPERJIT_LOGG="x")["unknown"], [{"name": "HYPERJIT_LOGG", "nearest": "HYPERJIT_LOG"}])
        self.good("env", HYPERJIT_JOBS="2", HYPERJIT_PRESET="release", HYPERJIT_TEST_SEED="1")  # of scripts and tests

    def test_values_without_meaning(self):
        for command in (["env"], ["cache", "ls"], ["show", "static"], ["doctor"]):
            with self.subTest(command):
                self.fails(3, "HYPERJIT_CACHE=readonly: it takes rw|ro|off|refresh", *command, HYPERJIT_CACHE="readonly")
        self.fails(3, "HYPERJIT_COMPILE_JOBS=0: it takes number from 1 to 1024", "env", HYPERJIT_COMPILE_JOBS="0")

    def test_no_compiler(self):
        done = self.fails(3, "the compiler plugin cannot be opened:\n  /absent.so: no such file\n", "show", "static",
                          HYPERJIT_COMPILER_PATH="/absent.so")
        self.assertIn("set HYPERJIT_COMPILER_PATH to libhyperjit-compiler.so or its folder", done.stderr)
        # What needs no compiler works without.
        self.assertIn("hc.func @site", self.good("show", "static", "--stage", "recipe", HYPERJIT_COMPILER_PATH="/absent.so"))
        self.good("recipes", HYPERJIT_COMPILER_PATH="/absent.so")
        answer = self.json("doctor", code=1, HYPERJIT_COMPILER_PATH="/absent.so")
        compiler = [c for c in answer["checks"] if c["name"] == "compiler"][0]
        self.assertFalse(compiler["ok"])
        self.assertIn("build the target hyperjit-compiler or set HYPERJIT_COMPILER_PATH", compiler["advice"])

    @needs_compiler
    def test_no_nvrtc(self):
        for stage in ([], ["--stage", "ptx"]):
            self.fails(3, "libnvrtc was not found, so CUDA kernels cannot be compiled; it comes with the torch wheel", "show", "static",
                       "--target", "sm_90a", *stage, HYPERJIT_NVRTC_PATH="/absent/libnvrtc.so")
        # A machine without it is healthy.
        answer = self.json("doctor", HYPERJIT_NVRTC_PATH="/absent/libnvrtc.so")
        nvrtc = [c for c in answer["checks"] if c["name"] == "nvrtc"][0]
        self.assertEqual((nvrtc["ok"], nvrtc["optional"]), (False, True))
        self.assertIn("/absent/libnvrtc.so: no such file", nvrtc["found"])

    @needs_compiler
    def test_doctor(self):
        answer = self.json("doctor")
        names = [check["name"] for check in answer["checks"]]
        for name in ("hyperjit", "compiler", "cache", "compile, load, launch", "nvrtc", "cuda driver"):
            self.assertIn(name, names)
        for check in answer["checks"]:
            self.assertLessEqual({"name", "ok", "found", "advice"}, set(check))
            self.assertTrue(check["ok"] or check["advice"], check)
        self.assertIn("compile, load, launch", self.good("doctor"))

    @needs_compiler
    def test_no_writable_cache(self):
        writeless = {"HYPERJIT_CACHE_DIR": "/proc/hyperjit"}
        done = self.run_command("show", "static:n=2,d=8", "--traffic", **writeless)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr.count("compiled kernels are not kept in /proc/hyperjit"), 1)
        self.assertIn("set HYPERJIT_CACHE_DIR", done.stderr)
        done = self.run_command("show", "static:n=2,d=8", "--traffic", HYPERJIT_CACHE_DIR="", HOME="", XDG_CACHE_HOME="")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("they are kept in memory only; set HYPERJIT_CACHE_DIR to keep them", done.stderr)
        # Filling a cache is another matter.
        self.fails(3, "--out /proc/hyperjit: No such file or directory", "precompile",
                   "before(static:n=2,d=8):forward:infer:tokens=small", "--out", "/proc/hyperjit")
        self.fails(3, "there is no writable cache to fill", "precompile", "static:n=2,d=8", HYPERJIT_CACHE="ro")
        self.fails(3, "no cache directory: set HYPERJIT_CACHE_DIR", "cache", "path", HYPERJIT_CACHE="off")
        self.assertFalse([c for c in self.json("doctor", code=1, **writeless)["checks"] if c["name"] == "cache"][0]["ok"])

    @needs_compiler
    def test_jit_off(self):
        done = self.fails(3, "and HYPERJIT_JIT=off forbids to compile it", "show", "static:n=2,d=8", HYPERJIT_JIT="off")
        self.assertIn(str(self.cache), done.stderr)
        self.good("show", "static:n=2,d=8")
        self.good("show", "static:n=2,d=8", HYPERJIT_JIT="off")
        # What bench asks for beside the kernels of its spec is left out then.
        arguments = ["bench", "static:n=2,d=32", "--device", "cpu", "--tokens", "8", "--against", "none", "--repeats", "1"]
        self.good(*arguments)
        self.assertNotIn("first call", self.good(*arguments, HYPERJIT_JIT="off"))


@needs_compiler
class Show(Case):
    def test_traffic(self):
        lines = self.good("show", "manifold:n=4,d=4096,dtype=bf16", "--traffic").splitlines()
        self.assertEqual(lines, ["chained 10.0u forward, 15.0u backward", "alone 14.0u forward, 27.0u backward"])
        for spec, line in [("frac:n=1,m=4,d=512", "chained 4.0u forward, 6.0u backward"),
                           ("static:n=8,d=64", "chained 18.0u forward, 27.0u backward"),
                           ("boundary(static:n=2,d=64|dynamic:n=2,d=64)", "chained 6.0u forward, 9.0u backward")]:
            with self.subTest(spec):
                self.assertEqual(self.good("show", spec, "--traffic").splitlines()[0], line)
        self.assertEqual(self.good("show", "static:n=4,d=64", "--traffic", "--role", "boundary", "--direction", "forward"),
                         "chained 10.0u forward\n")

    def test_json(self):
        answer = self.json("show", "manifold:n=4,d=4096,dtype=bf16")
        self.assertLessEqual({"spec", "target", "schedule", "parameters", "kernels", "chained", "alone"}, set(answer))
        self.assertEqual(answer["spec"], "manifold:n=4,m=1,d=4096,dtype=bf16")
        self.assertEqual((answer["chained"]["forward_u"], answer["chained"]["backward_u"]), (10, 15))
        self.assertEqual((answer["alone"]["forward_u"], answer["alone"]["backward_u"]), (14, 27))
        self.assertIn("narrow_bytes", answer["chained"])
        self.assertEqual([(p["name"], p["shape"]) for p in answer["parameters"]][-1], ("phi", [4 * 4096, 24]))
        self.assertEqual({(k["role"], k["direction"]) for k in answer["kernels"]},
                         {(r, d) for r in ("before", "boundary", "after") for d in ("forward", "backward")})
        for kernel in answer["kernels"]:
            self.assertLessEqual({"entry", "role", "direction", "reads_u", "writes_u", "saved_u", "narrow_bytes", "registers",
                                  "shared_bytes", "spills"}, set(kernel))
            for count in ("reads_u", "writes_u", "saved_u"):
                self.assertIsInstance(kernel[count], int)
        self.assertEqual(self.json("show", "static:n=2,d=16", "--stage", "recipe")["text"],
                         self.good("show", "static:n=2,d=16", "--stage", "recipe"))
        self.good("show", "static:n=2,d=16", "--json", "answer.json")
        self.assertEqual(json.loads((self.folder / "answer.json").read_text())["schema"], "hyperjit.show/1")

    def test_summary(self):
        text = self.good("show", "dynamic:n=4,d=64", "--target", "x86-64-v3")
        for part in ("dynamic:n=4,m=1,d=64,dtype=fp32", "target x86-64-v3", "dynamic_alpha_fn", "boundary  backward"):
            self.assertIn(part, text)
        # One kernel by its own text.
        kernel = "after(static:n=2,m=1,d=8,dtype=fp32):backward:given=x:want=y:tokens=small"
        self.assertEqual([k["spec"] for k in self.json("show", kernel)["kernels"]], [kernel])

    def test_every_stage(self):
        marks = {"recipe": "hc.branch", "hc": "hc.func @", "specialized": "!hc.rows<4, 64>", "adjoint": "hc.func @",
                 "split": "hc.role = \"after\"", "fused": "hc.role = \"boundary\"", "phases": "phase = \"M\"",
                 "emitc": "emitc.", "cuda": "#include \"hyperjit/", "vector": "vector.", "llvm": "define ", "asm": "ret"}
        for direction in ("forward", "backward"):
            for stage, mark in marks.items():
                with self.subTest(stage=stage, direction=direction):
                    text = self.good("show", "dynamic:n=4,d=64", "--stage", stage, "--direction", direction)
                    self.assertIn(mark, text)
                    self.assertTrue(text.endswith("\n"))
        backward = self.good("show", "dynamic:n=4,d=64", "--stage", "phases", "--direction", "backward")
        self.assertIn("hc.weight_grad", backward)

    @unittest.skipUnless(OPT, "this build has no hc-opt")
    def test_stages_parse_back(self):
        for stage in ("recipe", "hc", "specialized", "adjoint", "split", "fused", "phases"):
            for direction in ("forward", "backward"):
                with self.subTest(stage=stage, direction=direction):
                    text = self.good("show", "boundary(manifold:n=2,d=64|dynamic:n=2,d=64)", "--stage", stage, "--direction", direction)
                    done = subprocess.run([OPT, "-split-input-file"], input=text, capture_output=True, text=True)
                    self.assertEqual(done.returncode, 0, done.stderr)

    @unittest.skipUnless(OPT, "this build has no hc-opt")
    def test_every_recipe_parses(self):
        for recipe in RECIPES:
            with self.subTest(recipe):
                spec = recipe + (":n=1,m=4,d=64" if recipe == "frac" else ":n=4,d=64")
                text = self.good("show", spec, "--stage", "recipe")
                done = subprocess.run([OPT, "-canonicalize"], input=text, capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stderr)

    @unittest.skipUnless(LLVM_AS, "llvm-as is not here")
    def test_llvm_is_llvm(self):
        text = self.good("show", "static:n=2,d=64,dtype=bf16", "--stage", "llvm", "--direction", "backward")
        done = subprocess.run([LLVM_AS, "-o", os.devnull, "-"], input=text, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_both_cuts(self):
        def text(*cut):
            return self.good("show", "manifold:n=2,d=64", "--direction", "backward", "--stage", "phases", *cut)

        self.assertEqual(text(), text("--cut", "early"))
        self.assertNotEqual(text(), text("--cut", "late"))
        self.assertIn(text("--cut", "auto"), [text(), text("--cut", "late")])

    def test_a_schedule_is_shown(self):
        def cuda(*schedule):
            return self.good("show", "manifold:n=2,d=512,dtype=bf16", "--stage", "cuda", "--target", "sm_90a", *schedule)

        self.assertIn("clusterColumns<", cuda("--schedule", "columns:cluster=2,lag=1"))
        self.assertIn("Flow<1, ", cuda("--schedule", "columns:cluster=2,lag=1"))
        self.assertIn("Flow<2, ", cuda("--schedule", "columns:lag=2,cluster=2"))
        self.assertIn("rowReduced<", cuda("--schedule", "rows:tokens=8"))
        self.assertEqual(cuda(), cuda("--schedule", "auto"))
        for message, schedule in [("'depth=2' is no number of 'columns'; it takes", "columns:depth=2"),
                                  ("columns splits rows into 16 parts of whole chunks", "columns:cluster=16,vector=8"),
                                  ("'cluster' is not name=number", "columns:cluster"),
                                  ("names the skeleton 'columnar'", "columnar")]:
            with self.subTest(schedule):
                self.fails(2, message, "show", "manifold:n=2,d=520,dtype=bf16", "--stage", "cuda", "--target", "sm_90a",
                           "--schedule", schedule)

    def test_more_than_kernels_take(self):
        for message, arguments in [("bytes of scratch a thread; at most 4294967296 are supported", ["manifold:n=8,d=16777216", "--target", "x86-64-v3"]),
                                   ("bytes packed for tensor cores; at most 16 GiB", ["manifold:n=32,d=1048576", "--target", "sm_90a"]),
                                   ("bytes of shared memory, and a block of sm_90a has", ["manifold:n=16,d=512,iterations=1000", "--target", "sm_90a"])]:
            with self.subTest(arguments):
                done = self.fails(2, message, "show", *arguments)
                self.assertNotIn("bug", done.stderr)

    def test_stages_of_the_other_target(self):
        self.fails(2, "stage \"cuda\" does not exist for target x86-64-v3; there are recipe, hc,", "show", "static", "--stage", "cuda",
                   "--target", "x86-64-v3")
        self.fails(2, "stage \"asm\" does not exist for target sm_80", "show", "static", "--stage", "asm", "--target", "sm_80")
        self.fails(2, "--stage ptx needs a CUDA target", "show", "static", "--stage", "ptx", "--target", "x86-64-v3")

    def test_cuda_is_readable(self):
        text = self.good("show", "manifold:n=4,d=4096,dtype=bf16", "--stage", "cuda", "--target", "sm_90a")
        self.assertIn("__global__", text)
        self.assertLess(text.count("\n"), 200)

    def test_equal_kernels_have_equal_texts(self):
        def text(spec, *more, target="sm_90a"):
            return self.good("show", spec, "--stage", "cuda", "--target", target, *more)

        manifold, dynamic = "manifold:n=4,d=4096,dtype=bf16", "dynamic:n=4,d=4096,dtype=bf16"
        forward, backward, few = ["--direction", "forward"], ["--direction", "backward"], ["--tokens", "small"]
        for spec, direction, target in ((manifold, forward, "sm_80"), (manifold, backward, "sm_80"), (manifold, backward, "sm_90a"),
                                        (dynamic, forward, "sm_90a"), (dynamic, backward, "sm_90a")):
            self.assertEqual(text(spec, *direction, target=target), text(spec, *few, *direction, target=target))
        # Long maths of a token that nothing waits for comes at once where tokens are few, and after all sweeps where they are many.
        self.assertNotEqual(text(manifold, *forward), text(manifold, *few, *forward))
        self.assertEqual(text(manifold, "--role", "after"), text("dynamic:n=4,d=4096,dtype=bf16", "--role", "after"))
        # Others have other names, so that a profile tells them apart.
        names = [re.findall(r"void __launch.* (\w+)_main\(", text(spec)) for spec in (manifold, "manifold:n=4,d=2048,dtype=bf16")]
        self.assertRegex(names[0][0], r"^hc_boundary_forward_[0-9a-f]{8}$")
        self.assertNotEqual(names[0], names[1])

    def test_a_text_has_one_code(self):
        self.nvrtc()
        kernel = ("boundary(delayed-pre:n=4,m=1,d=4096,dtype=bf16|delayed-pre:n=4,m=1,d=4096,dtype=bf16)"
                  ":backward:given=xuc:want=xycp:tokens=large")
        # One of two by chance with NVRTC's --split-compile, of which one spills registers.
        self.assertEqual(len({self.good("show", kernel, "--stage", "ptx", "--target", "sm_100a") for _ in range(5)}), 1)

    def test_ptx(self):
        self.nvrtc()
        for target, machine in (("sm_80", "sm_80"), ("sm_90a", "sm_90a")):
            text = self.good("show", "static:n=4,d=64", "--stage", "ptx", "--target", target)
            self.assertRegex(text, rf"\.target {machine}\b")
            self.assertIn(".visible .entry", text)

    def test_sass(self):
        self.nvrtc()
        if shutil.which("nvdisasm"):
            self.assertIn("EXIT", self.good("show", "static:n=4,d=64", "--stage", "sass"))
        else:
            self.fails(3, "nvdisasm is not on PATH; it comes with the CUDA toolkit", "show", "static:n=4,d=64", "--stage", "sass")

    def test_cuda_kernels(self):
        self.nvrtc()
        for kernel in self.json("show", "manifold:n=4,d=4096,dtype=bf16", "--target", "sm_90a/h100")["kernels"]:
            self.assertGreater(kernel["registers"], 0)
            self.assertEqual(kernel["spills"], 0)
            self.assertRegex(kernel["schedule"], r"^[a-z]+:")

    def test_load(self):
        self.assertEqual(self.good("show", "tools-test:n=4,d=64", "--traffic", "--load", RECIPE).splitlines()[0],
                         "chained 10.0u forward, 15.0u backward")


class Demo(Case):
    """Text that is none; needs no training."""

    def setUp(self):
        super().setUp()
        done = self.run_command("demo", "--text", "absent.txt")
        if done.returncode == 3 and "this build has no LibTorch part" in done.stderr:
            self.skipTest("this build has no LibTorch part")

    def test_bad_text(self):
        (self.folder / "empty.txt").write_text("")
        (self.folder / "binary.txt").write_bytes(b"text\0text" * 1000)
        (self.folder / "latin.txt").write_bytes(b"caf\xe9 " * 5000)
        (self.folder / "short.txt").write_text("short")
        (self.folder / "rare.txt").write_text("".join(chr(0x4E00 + i % 3000) for i in range(20000)), encoding="utf-8")
        (self.folder / "folder").mkdir()
        for message, text in [("text 'absent.txt' does not exist", "absent.txt"), ("text 'empty.txt' is empty", "empty.txt"),
                              ("text 'binary.txt' looks binary (byte 4 is zero); UTF-8 text is wanted", "binary.txt"),
                              ("text 'latin.txt' looks binary (5000 of 25000 bytes are not UTF-8); UTF-8 text is wanted", "latin.txt"),
                              ("text 'short.txt' has 5 characters; at least", "short.txt"),
                              ("text 'rare.txt' has 20000 characters, 3000 of them different, and each too rare to learn: one must occur "
                               "at least 8 times; give a longer text", "rare.txt"),
                              ("folder 'folder' holds no text file", "folder")]:
            with self.subTest(text):
                self.fails(2, message, "demo", "--text", text)

    def test_bad_options(self):
        self.fails(2, "unknown variant 'manifodl'; did you mean 'manifold'?", "demo", "--variants", "plain,manifodl")
        self.fails(2, "variant 'manifold:d=64': the width comes from --dim", "demo", "--variants", "plain,manifold:d=64")
        for key in ("dtype", "branch", "branch_in", "branch_out"):
            self.fails(2, f"variant 'manifold:n=2,{key}=bf16': {key}= is not taken, the demo trains in fp32; leave it out", "demo",
                       "--variants", f"plain,manifold:n=2,{key}=bf16", "--steps", "1")
        self.fails(2, "--steps", "demo", "--steps", "0")


if __name__ == "__main__":
    unittest.main()
