#!/usr/bin/env python3
# Caches as the command and a program see them: keys, targets, packs, interrupted work, what a warm process maps.
# SPDX-License-Identifier: Apache-2.0
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
import unittest

from case import COMMAND, Case, WARM, needs_compiler


@needs_compiler
class Caches(Case):
    def fill(self, spec="static:n=2,d=8"):
        return self.json("precompile", spec, "--target", "x86-64-v3")

    def test_precompile(self):
        answer = self.fill()
        self.assertLessEqual({"directory", "compiled", "cached", "failed", "seconds", "entries"}, set(answer))
        self.assertEqual(answer["directory"], str(self.cache))
        self.assertEqual((answer["cached"], answer["failed"]), (0, []))
        self.assertEqual(answer["compiled"], len(answer["entries"]))
        for entry in answer["entries"]:
            self.assertEqual(set(entry), {"spec", "target", "key", "bytes", "ms"})
            path = self.cache / "v1" / entry["key"][:2] / (entry["key"] + ".hjk")
            self.assertEqual(path.stat().st_size, entry["bytes"])
        again = self.fill()
        self.assertEqual((again["compiled"], again["cached"]), (0, answer["compiled"]))
        self.assertEqual([e["key"] for e in again["entries"]], [e["key"] for e in answer["entries"]])

    def test_specs_file_and_out(self):
        (self.folder / "specs.txt").write_text("# what we serve\n\nbefore(static:n=2,d=8):forward:infer:tokens=small  # one\n"
                                               "after(static:n=2,d=8):forward:infer:tokens=small\n")
        answer = self.json("precompile", "--specs", "specs.txt", "--target", "x86-64-v3,x86-64-v4", "--out", "kernels", "--jobs", "1")
        self.assertEqual(answer["compiled"], 4)
        self.assertEqual({e["target"] for e in answer["entries"]}, {"x86-64-v3", "x86-64-v4"})
        self.assertFalse(self.cache.exists())
        # What was compiled elsewhere is found there.
        self.good("show", "before(static:n=2,d=8):forward:infer:tokens=small", "--target", "x86-64-v4", HYPERJIT_JIT="off",
                  HYPERJIT_CACHE_PATH=str(self.folder / "kernels"))
        (self.folder / "specs.txt").write_text("static:n=2,d=8\nstatik:n=2\n")
        # A wrong line is a finding; the others are compiled.
        self.fails(1, "specs.txt, line 2: unknown recipe 'statik'; did you mean 'static'?", "precompile", "--specs", "specs.txt")
        self.assertGreater(len(list(self.cache.glob("v1/*/*.hjk"))), 2)

    def test_ls_show_stats_explain(self):
        filled = self.fill()
        entries = self.json("cache", "ls", command="cache-ls")["entries"]
        self.assertEqual({e["key"] for e in entries}, {e["key"] for e in filled["entries"]})
        self.assertEqual(len(self.good("cache", "ls").splitlines()), len(entries))
        self.assertIn(entries[0]["spec"], self.good("cache", "ls"))
        shown = self.json("cache", "show", entries[0]["key"][:12], command="cache-show")
        self.assertTrue(shown["ok"])
        self.assertEqual(shown["meta"]["spec"], entries[0]["spec"])
        stats = self.json("cache", "stats", command="cache-stats")
        self.assertLessEqual({"hits", "misses", "bad", "published", "entries", "bytes"}, set(stats))
        self.assertEqual((stats["entries"], stats["bytes"]), (len(entries), sum(e["bytes"] for e in entries)))
        explained = self.json("cache", "explain", "static:n=2,d=8", "--target", "x86-64-v3", command="cache-explain")
        self.assertTrue(all(k["found"].endswith(k["key"] + ".hjk") for k in explained["kernels"]))
        self.assertEqual(explained["kernels"][0]["fields"]["target"], "x86-64-v3")
        missing = self.run_command("cache", "explain", "static:n=3,d=8", "--target", "x86-64-v3")
        self.assertEqual(missing.returncode, 1)
        self.assertIn("not in any layer: it would be compiled", missing.stdout)
        self.assertEqual(self.good("cache", "path"), f"{self.cache}\n")

    def test_verify_and_heal(self):
        self.fill()
        answer = self.json("cache", "verify", command="cache-verify")
        self.assertEqual((answer["bad"], answer["unknown"]), ([], 0))
        self.assertGreater(answer["checked"], 2)
        files = sorted(self.cache.glob("v1/*/*.hjk"))
        flip = lambda at: lambda b: b[:at] + bytes([b[at] ^ 1]) + b[at + 1:]
        damage = [flip(300), flip(8), lambda b: b[:-7], lambda b: b + bytes(65 << 20)]
        self.assertGreater(len(files), len(damage))
        for path, change in zip(files, damage):
            path.write_bytes(change(path.read_bytes()))
        answer = self.json("cache", "verify", code=1, command="cache-verify")
        self.assertEqual({b["file"]: bool(b["why"]) for b in answer["bad"]}, {str(f): True for f in files[:len(damage)]})
        self.assertEqual(answer["unknown"], 0)
        self.assertEqual(self.run_command("cache", "verify").returncode, 1)
        again = self.fill()
        self.assertEqual((again["compiled"], again["failed"]), (len(damage), []))
        self.good("cache", "verify")
        self.assertEqual(self.fill()["compiled"], 0)

    def test_precompile_says_what_it_could_not_put_in_place(self):
        entries = self.fill()["entries"]
        path = self.cache / "v1" / entries[0]["key"][:2] / (entries[0]["key"] + ".hjk")
        whole = path.read_bytes()
        newer = whole[:8] + b"\x07" + whole[9:90] + bytes([whole[90] ^ 1]) + whole[91:]
        path.write_bytes(newer)  # somebody else's format, with a checksum of its own: not ours to remove
        answer = self.json("cache", "verify", command="cache-verify")
        self.assertEqual((answer["bad"], answer["unknown"]), ([], 1))
        for _ in range(2):
            again = self.json("precompile", "static:n=2,d=8", "--target", "x86-64-v3", code=3)
            self.assertEqual((again["compiled"], again["cached"]), (0, len(entries) - 1))
            self.assertEqual([f["spec"] for f in again["failed"]], [entries[0]["spec"]])
            self.assertIn("format 7, this version reads 1; remove it", again["failed"][0]["error"])
        self.assertEqual(path.read_bytes(), newer)

    def test_precompile_fills_each_target(self):
        kernel = "before(static:n=2,m=1,d=64,dtype=fp32):forward:infer:tokens=large"
        keys = set()
        for target in ("x86-64-v3", "x86-64-v4", "x86-64-v3"):
            before = len(keys)
            answer = self.json("precompile", kernel, "--target", target, "--out", "kernels")
            keys |= {entry["key"] for entry in answer["entries"]}
            self.assertEqual((answer["compiled"], len(keys)), (len(keys) - before, 1 if target == "x86-64-v3" and before == 0 else 2))
        # What another folder holds does not fill this one.
        answer = self.json("precompile", kernel, "--target", "x86-64-v3", HYPERJIT_CACHE_PATH=str(self.folder / "kernels"))
        self.assertEqual(answer["compiled"], 1)
        self.nvrtc()
        plain, named = (self.json("precompile", kernel, "--target", target, "--out", "kernels") for target in ("sm_90a", "sm_90a/h100"))
        self.assertEqual((plain["compiled"], named["compiled"]), (1, 1))
        self.assertNotEqual(plain["entries"][0]["key"], named["entries"][0]["key"])

    def test_explain_without_the_toolchain(self):
        explain = ["cache", "explain", "before(static:n=2,d=64):forward:infer:tokens=large", "--target", "sm_90a"]
        answer = self.json(*explain, code=1, command="cache-explain", HYPERJIT_NVRTC_PATH="/nonexistent")
        kernel = answer["kernels"][0]
        self.assertEqual((kernel["key"], kernel["fields"]["toolchain"], kernel["fields"]["target"]), ("", "", "sm_90a"))
        self.assertIn("nvrtc", kernel["toolchain_missing"])
        done = self.run_command(*explain, HYPERJIT_NVRTC_PATH="/nonexistent")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("not in any layer, and cannot be compiled here: libnvrtc", done.stdout)
        self.assertIn("key = (unknown", done.stdout)

    def test_unpacking_into_the_own_cache_ships_nothing(self):
        self.json("precompile", "static:n=2,d=8", "--target", "x86-64-v3", "--out", "kernels")
        self.good("cache", "pack", "kernels.hjpack", "--from", "kernels")
        answer = self.json("cache", "unpack", "kernels.hjpack", command="cache-unpack")
        self.assertGreater(answer["added"], 2)
        self.assertEqual([path.name for path in self.cache.iterdir()], ["v1"])
        # Kernels come and go there, so a manifest would soon be wrong.
        self.good("precompile", "static:n=2,d=16", "--target", "x86-64-v3")
        self.good("cache", "clear")
        self.fails(2, "no manifest.json in any of the folders", "cache", "verify", "--manifest")
        # What would not be found there is said, as precompile does.
        done = self.run_command("cache", "unpack", "kernels.hjpack")
        own = json.loads(self.good("precompile", "static:n=2,d=64", "--json"))["entries"][0]["target"]
        self.assertEqual("found only in a folder with a manifest" in done.stderr, own != "x86-64-v3", done.stderr)
        # A shipped folder stays one.
        self.json("precompile", "static:n=2,d=16", "--target", "x86-64-v3", "--out", "more")
        self.good("cache", "unpack", "kernels.hjpack", HYPERJIT_CACHE_DIR=str(self.folder / "more"))
        self.good("cache", "verify", "--manifest", "more")

    def test_what_is_read_is_not_written_over(self):
        self.json("precompile", "static:n=2,d=8", "--target", "x86-64-v3", "--out", "kernels")
        self.good("cache", "pack", "kernels.hjpack", "--from", "kernels")
        (self.folder / "specs.json").write_text("static:n=2,d=8\n")
        for arguments in (["cache", "pack", "new.json", "--from", "kernels", "--json", "new.json"],
                          ["cache", "unpack", "kernels.hjpack", "--to", "to", "--json=kernels.hjpack"],
                          ["cache", "missing", "--log", "specs.json", "--json", "specs.json"],
                          ["precompile", "--specs", "specs.json", "--json", "specs.json"],
                          ["bench", "--specs", "specs.json", "--json", "specs.json"],
                          ["autotune", "--specs", "specs.json", "--out", "specs.json"]):
            with self.subTest(arguments):
                self.fails(2, "both name '", *arguments)
        self.assertEqual((self.folder / "specs.json").read_text(), "static:n=2,d=8\n")
        self.good("cache", "unpack", "kernels.hjpack", "--to", "to")

    def test_a_target_that_was_printed_is_taken(self):
        text = self.json("precompile", "static:n=2,d=8", "--target", "native")["entries"][0]["target"]
        answer = self.json("precompile", "static:n=2,d=8", "--target", f"{text},x86-64-v3")
        self.assertEqual({entry["target"] for entry in answer["entries"]} - {text}, {"x86-64-v3"})
        self.assertEqual(answer["cached"] + answer["compiled"], len(answer["entries"]))

    def test_no_mask_makes_a_folder_that_is_not_trusted(self):
        self.addCleanup(os.umask, os.umask(0))
        self.good("precompile", "static:n=2,d=8", "--target", "x86-64-v3", "--out", "kernels")
        self.good("cache", "pack", "kernels.hjpack", "--from", "kernels")
        self.good("cache", "unpack", "kernels.hjpack", HYPERJIT_CACHE_DIR=str(self.folder / "made"))
        self.assertEqual((self.folder / "made").stat().st_mode & 0o002, 0)
        self.json("cache", "verify", HYPERJIT_CACHE_DIR=str(self.folder / "made"), command="cache-verify")

    def test_names_that_no_json_holds(self):
        for command in (["show", "static:n=2,d=8"], ["precompile", "static:n=2,d=8"]):
            self.fails(3, "HYPERJIT_CACHE_NAMESPACE is no UTF-8 text", *command, HYPERJIT_CACHE_NAMESPACE=os.fsdecode(b"\xff"))
        self.json("precompile", "static:n=2,d=8", "--target", "x86-64-v3", "--out", "kernels")
        (self.folder / "kernels/tuning").mkdir()
        (self.folder / "kernels/tuning" / os.fsdecode(b"a\xff.jsonl")).write_text("")
        done = subprocess.run([COMMAND, "cache", "pack", "kernels.hjpack", "--from", "kernels"], env=self.environment(), cwd=self.folder,
                              capture_output=True, timeout=300)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(b"left out", done.stderr)
        self.good("cache", "unpack", "kernels.hjpack", "--to", "to")

    def test_two_fill_one_folder(self):
        both = [subprocess.Popen([COMMAND, "precompile", "static:n=2,d=8", "dynamic:n=2,d=8", "--target", target, "--out", "kernels"],
                                 env=self.environment(), cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                for target in ("x86-64-v3", "x86-64-v4", "x86-64-v2")]
        for process in both:
            _, errors = process.communicate(timeout=300)
            self.assertIn(process.returncode, (0, 2), errors)  # 2: a level that this LLVM or CPU does not name
        self.json("cache", "verify", "--manifest", "kernels", command="cache-verify")

    def test_diff_says_what_it_could_not_compare(self):
        self.json("precompile", "static:n=2,d=8", "--target", "x86-64-v3", "--out", "a")
        shutil.copytree(self.folder / "a", self.folder / "b")
        self.assertEqual(self.json("cache", "diff", "a", "b", command="cache-diff")["skipped"], [])
        damaged = [sorted((self.folder / name).glob("v1/*/*.hjk"))[0] for name in "ab"]
        for path in damaged:
            path.write_bytes(path.read_bytes()[:-7])
        answer = self.json("cache", "diff", "a", "b", code=1, command="cache-diff")
        self.assertEqual((answer["differences"], len(answer["skipped"])), ([], 2))
        done = self.fails(1, f"not compared: a/v1/{damaged[0].parent.name}/{damaged[0].name}: it is damaged", "cache", "diff", "a", "b")
        self.assertIn("and 2 files that could not be compared", done.stdout)

    def test_counters_of_any_size(self):
        folder = self.cache / "v1" / "stats"
        folder.mkdir(parents=True)
        for name, hits, ms in (("a", 2**63 - 1, 1e308), ("b", 2**64 - 1, 1e308), ("c", -5, -1.0), ("d", 7, 3.0)):
            (folder / f"{name}.json").write_text(json.dumps({"hits": hits, "misses": 2, "compile_ms": ms}))
        (folder / "e.json").write_text("[" * 60000)
        stats = self.json("cache", "stats", command="cache-stats")
        self.assertEqual((stats["hits"], stats["misses"], stats["processes"]), (2**63 - 1, 8, 4))
        self.assertTrue(0 < stats["compile_ms"] < 1e19)
        self.assertNotRegex(self.good("cache", "stats"), "-[0-9]|inf|nan")

    def test_precompile_names_a_limit_that_is_too_small(self):
        answer = self.json("precompile", "static:n=2,d=8", "--target", "x86-64-v3", code=3, HYPERJIT_CACHE_MAX_SIZE="8K")
        left = self.json("cache", "ls", command="cache-ls")["entries"]
        self.assertEqual({e["key"] for e in left}, {e["key"] for e in answer["entries"]})
        self.assertEqual(answer["compiled"] + answer["cached"], len(left))
        self.assertGreater(len(answer["failed"]), 0)
        for failure in answer["failed"]:
            self.assertIn("it was removed again; HYPERJIT_CACHE_MAX_SIZE, which is 8.0 KiB", failure["error"])
        done = self.fails(3, "it could not be written", "precompile", "before(static:n=2,d=8):forward:infer:tokens=large",
                          HYPERJIT_CACHE_DIR="/proc/hyperjit")
        self.assertNotIn("MAX_SIZE", done.stderr)

    def test_unpack_makes_whole_again(self):
        self.json("precompile", "static:n=2,d=8", "--target", "x86-64-v3", "--out", "kernels")
        self.good("cache", "pack", "kernels.hjpack", "--from", "kernels")
        self.good("cache", "unpack", "kernels.hjpack", "--to", "there")
        files = sorted((self.folder / "there").glob("v1/*/*.hjk"))
        whole = [file.read_bytes() for file in files]
        files[0].write_bytes(whole[0][:-7])
        files[1].write_bytes(whole[2])  # another kernel's
        answer = self.json("cache", "unpack", "kernels.hjpack", "--to", "there", command="cache-unpack")
        self.assertEqual((answer["added"], answer["skipped"]), (2, []))
        self.assertEqual([file.read_bytes() for file in files], whole)
        self.good("cache", "verify", "there")

    def test_clear_and_prune_leave_foreign_files(self):
        self.fill()
        shard = next(self.cache.glob("v1/??"))
        (shard / "notes.txt").write_text("mine")
        (self.cache / "tuning").mkdir()
        (self.cache / "tuning" / "a.jsonl").write_text("{}")
        self.assertEqual(self.json("cache", "prune", command="cache-prune")["removed_bytes"], 0)
        cleared = self.json("cache", "clear", command="cache-clear")
        self.assertGreater(cleared["removed"], 0)
        self.assertEqual(list(self.cache.glob("v1/*/*.hjk")), [])
        self.assertEqual((shard / "notes.txt").read_text(), "mine")
        self.assertTrue((self.cache / "tuning" / "a.jsonl").exists())

    def test_precompile_names_targets_that_this_cache_does_not_serve(self):
        own = json.loads(self.good("precompile", "static:n=2,d=64", "--json"))["entries"][0]["target"]
        for target in ("x86-64-v3", "x86-64-v4", "sm_80"):
            done = self.run_command("precompile", "static:n=2,d=64", "--target", target)
            serves = target == own or target.startswith("sm_") or (own, target) == ("x86-64-v3", "x86-64-v4")
            self.assertEqual("only in a folder with a manifest" in done.stderr, not serves, done.stderr)
        packed = self.run_command("precompile", "static:n=2,d=64", "--target", "x86-64-v3", "--out", "pack")
        self.assertNotIn("manifest", packed.stderr)

    def test_works_on_where_no_thread_can_be_started(self):
        hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
        if hard != resource.RLIM_INFINITY:
            self.skipTest("the stack's size has a hard limit here")
        kernels = [f"before(static:n=2,d={d}):forward:infer:tokens=large" for d in (8, 16, 24)]
        for arguments in (["precompile", *kernels, "--jobs", "4"], ["autotune", kernels[0], "--budget", "2"]):
            # Stacks that no address space holds.
            done = subprocess.run([COMMAND, *arguments, "--json"], env=self.environment(), capture_output=True, text=True, timeout=120,
                                  cwd=self.folder, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (1 << 50, hard)))
            self.assertEqual(done.returncode, 0, f"{arguments}: {done.stdout}{done.stderr}")
        self.assertEqual(self.json("precompile", *kernels)["cached"], 3)

    def test_interrupted_precompile_leaves_whole_entries(self):
        self.interrupted_precompile(signal.SIGINT)

    def test_ended_precompile_leaves_whole_entries(self):
        self.interrupted_precompile(signal.SIGTERM)

    def interrupted_precompile(self, how):
        specs = [f"{recipe}:n={n},d={d}" for recipe in ("manifold", "dynamic") for n in (2, 3, 4) for d in (64, 65, 66)]
        process = subprocess.Popen([COMMAND, "precompile", *specs, "--jobs", "1", "--json"], env=self.environment(),
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder)
        for _ in range(600):
            if len(list(self.cache.glob("v1/*/*.hjk"))) > 2 or process.poll() is not None:
                break
            time.sleep(0.05)
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1, err)
        answer = json.loads(out)
        self.assertGreater(answer["compiled"], 0)
        self.assertEqual(answer["compiled"], len(list(self.cache.glob("v1/*/*.hjk"))))
        self.good("cache", "verify")


@needs_compiler
class WarmProcess(Case):
    def run_warm(self, **settings):
        done = subprocess.run([WARM], env=self.environment(**settings), capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = done.stdout.splitlines()
        facts = dict(line.split(" ") for line in lines if not line.startswith("maps "))
        return facts, [line[5:] for line in lines if line.startswith("maps ")]

    def test_maps_no_llvm(self):
        heavy = re.compile("compiler|LLVM|MLIR|torch|libcuda|nvrtc|libc10")
        facts, maps = self.run_warm()
        self.assertEqual(facts, {"right": "1", "compiled": "1", "disk": "0"})
        self.assertTrue([f for f in maps if "libhyperjit-compiler" in f], "the cold run did not open the compiler")
        # From disk, and with no compiler to be found.
        facts, maps = self.run_warm(HYPERJIT_COMPILER_PATH="/absent.so", HYPERJIT_JIT="off")
        self.assertEqual(facts, {"right": "1", "compiled": "0", "disk": "1"})
        self.assertTrue([f for f in maps if "libhyperjit.so" in f])
        self.assertEqual([f for f in maps if heavy.search(os.path.basename(f))], [])

    def test_warm_command_opens_no_compiler(self):
        def opened():
            done = self.run_command("show", "static:n=2,d=8", "--traffic", LD_DEBUG="files")
            self.assertEqual(done.returncode, 0)
            return "libhyperjit-compiler" in done.stderr

        self.assertTrue(opened())
        self.assertFalse(opened())


@needs_compiler
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
        self.assertEqual(both[0]["schedule"], answer["rows"][0]["schedule"])
        self.assertIn("tokens=4,", both[1]["schedule"])
        # One that is for some of the kernels is timed for those.
        both = self.json("bench", self.KERNEL, self.KERNEL.replace("forward:save", "forward:infer"), *timed[2:], "--tokens", "128", "--schedule", "blocks:tokens=4", "--schedule", "blocks:tokens=7", code=1)
        self.assertEqual(len(both["rows"]), 2)
        self.assertEqual(len(both["failed"]), 2)
        self.assertIn("tokens is 7; legal are 4 to 64, powers of two", both["failed"][0]["error"])
        self.fails(2, "'token=4' is no number of 'blocks'; it takes", *timed, "--tokens", "128", "--schedule", "blocks:token=4")
        self.fails(2, "--schedule is of kernels, and 'dynamic' is none", "bench", "dynamic", "--mode", "alone", "--schedule", "auto")
        self.fails(2, "is not the kernel for 12 tokens; --tokens says how many", *timed, "--tokens", "12")
        self.fails(2, "is a kernel, and kernels are timed by themselves: write --mode alone, or a site", "bench", self.KERNEL, "--device", "cpu")


if __name__ == "__main__":
    unittest.main()
