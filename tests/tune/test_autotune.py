#!/usr/bin/env python3
# `hyperjit autotune` as its users call it: JSON, files, candidates that crash, hang or compute nonsense, Ctrl-C, resume.
# Times are of a machine that others use too, so nothing here depends on how fast a schedule is.
# SPDX-License-Identifier: Apache-2.0
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

COMMAND = os.environ["HYPERJIT_TEST_COMMAND"]
TARGET = "x86-64-v3"
KERNEL = ["--role", "boundary", "--direction", "forward", "--target", TARGET]
SMALL = ["dynamic:n=2,d=64", *KERNEL, "--tokens", "256"]
STATUSES = {"ok", "candidate", "wrong", "compile_error", "launch_error", "timeout", "crash"}


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hyperjit-tune-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.cache = self.folder / "cache"
        self.out = self.folder / "out.jsonl"

    def environment(self, **settings):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HYPERJIT_")}
        return {**clean, "HYPERJIT_CACHE_DIR": str(self.cache), **settings}

    def run_command(self, *arguments, code=0, **settings):
        done = subprocess.run([COMMAND, *map(str, arguments)], env=self.environment(**settings), capture_output=True, text=True,
                              timeout=300, cwd=self.folder)
        self.assertEqual(done.returncode, code, f"{arguments}: {done.stdout}{done.stderr}")
        self.assertNotIn("terminate called", done.stderr)
        return done

    def tune(self, *arguments, code=0, **settings):
        done = self.run_command("autotune", *arguments, "--out", self.out, "--json", code=code, **settings)
        answer = json.loads(done.stdout)  # stdout is data and nothing else
        self.assertEqual(answer["schema"], "hyperjit.autotune/1")
        return answer

    def lines(self, path=None):
        return [json.loads(line) for line in (path or self.out).read_text().splitlines()]

    def default(self, spec="dynamic:n=2,d=64"):
        answer = json.loads(self.run_command("autotune", spec, *KERNEL, "--list", "--json").stdout)
        kernels = [k for k in answer["kernels"] if ":forward:" in k["spec"]]
        return kernels[0]["spec"], [s["schedule"] for s in kernels[0]["schedules"]]


class Searching(Case):
    def test_json_table_and_plot(self):
        answer = self.tune(*SMALL, "--budget", 60, "--plot", "search.svg")
        self.assertTrue(answer["device"])
        self.assertGreater(answer["seconds"], 0)
        self.assertGreater(answer["copy_gbps"], 0)
        self.assertEqual(len(answer["results"]), 2)  # with and without what backward reads
        for result in answer["results"]:
            self.assertEqual(result["target"], TARGET)
            self.assertEqual(result["tokens"], 256)
            self.assertIn("boundary(dynamic:n=2", result["spec"])
            for which in ("best", "default"):
                self.assertEqual(set(result[which]), {"schedule", "us", "share"})
                self.assertTrue(result[which]["schedule"].startswith("blocks:"))
                self.assertGreater(result[which]["us"], 0)
                self.assertGreater(result[which]["share"], 0)
            self.assertGreater(result["tried"], 0)
            self.assertEqual(result["rejected"], 0)
            # Never slower than the default, and different from it only where it beats it.
            if result["tuned"]:
                self.assertLess(result["best"]["us"], 0.98 * result["default"]["us"])
            else:
                self.assertEqual(result["best"], result["default"])
        svg = (self.folder / "search.svg").read_text()
        self.assertTrue(svg.startswith("<svg") and svg.count("<polyline") == 2)
        decisions = [line for line in self.lines() if line["status"] == "ok"]
        self.assertEqual(len(decisions), 2)
        for line in self.lines():
            self.assertIn(line["status"], STATUSES)
            self.assertEqual(line["env"]["target"], TARGET)
        again = self.run_command("autotune", *SMALL, "--out", self.out, "--resume")
        self.assertRegex(again.stdout, r"(?m)^kernel +tokens +default us +best us +speed-up")

    def test_candidates_that_misbehave_are_survived_and_never_win(self):
        # Long enough for a start on a machine that does other work, too: one that is in time but slow is no misbehaviour.
        answer = self.tune(*SMALL, "--exhaustive", "--timeout", 15, "--budget", 200,
                           HYPERJIT_TUNING_FAULT="crash:tokens=8;hang:ahead=0,chunks=256,columns=3,stream=32,sums=9,tokens=4;wrong:tokens=32;fail:columns=2")
        for result in answer["results"]:
            seen = {}
            for line in self.lines():
                if line["key"]["spec"] == result["spec"] and line["status"] != "ok":
                    seen.setdefault(line["status"], set()).add(line["schedule"])
            self.assertEqual(set(seen), {"candidate", "crash", "timeout", "wrong", "compile_error"})
            self.assertTrue(all("tokens=8" in s for s in seen["crash"]))
            self.assertTrue(all("tokens=32" in s for s in seen["wrong"]))
            self.assertTrue(all("columns=2" in s for s in seen["compile_error"]))
            failed = set().union(*(seen[s] for s in ("crash", "timeout", "wrong", "compile_error")))
            self.assertEqual(result["rejected"], len(failed))
            self.assertNotIn(result["best"]["schedule"], failed)
            self.assertEqual(result["tried"], len(failed | seen["candidate"]))
        wrong = next(line for line in self.lines() if line["status"] == "wrong")
        self.assertRegex(wrong["message"], r"differs from the default schedule's by \S+ of its largest number")
        crash = next(line for line in self.lines() if line["status"] == "crash")
        self.assertIn("died of signal 11", crash["message"])

    def test_a_default_that_fails_is_a_problem_of_that_kernel(self):
        answer = self.tune(*SMALL, "--budget", 60, code=1, HYPERJIT_TUNING_FAULT="crash:tokens=16")
        self.assertEqual(len(answer["results"]), 2)
        for result in answer["results"]:
            self.assertIn("the default schedule crash: the worker died of signal", result["error"])

    def test_resume(self):
        self.tune(*SMALL, "--exhaustive", "--budget", 200)
        whole = self.out.read_text()
        again = self.tune(*SMALL, "--exhaustive", "--resume")
        self.assertEqual(self.out.read_text(), whole)
        self.assertTrue(all(result["resumed"] for result in again["results"]))
        # Without the decisions it goes on from what was measured.
        tried = [line for line in self.lines() if line["status"] != "ok"]
        self.out.write_text("".join(json.dumps(line) + "\n" for line in tried) + '{"v":1,"key":{"sp')  # and a torn line
        again = self.tune(*SMALL, "--exhaustive", "--resume", "--budget", 100)
        self.assertTrue(all(result["resumed"] for result in again["results"]))
        added = [json.loads(line) for line in self.out.read_text().splitlines()[len(tried) + 1:]]
        self.assertEqual([line["status"] for line in added], ["candidate", "ok"] * 2)  # the default, then the decision

    def test_interrupt_leaves_whole_lines_and_resume_ends_it(self):
        process = subprocess.Popen([COMMAND, "autotune", *SMALL, "--exhaustive", "--budget", "300", "--out", str(self.out), "--json"],
                                   env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder)
        deadline = time.time() + 60
        while time.time() < deadline and not (self.out.exists() and self.out.read_text().count("\n") >= 3):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 1, stderr)
        self.assertEqual(json.loads(stdout)["schema"], "hyperjit.autotune/1")
        before = self.lines()
        self.assertGreaterEqual(len(before), 3)
        answer = self.tune(*SMALL, "--exhaustive", "--resume", "--budget", 200)
        self.assertEqual(len(answer["results"]), 2)
        self.assertEqual(self.lines()[:len(before)], before)
        keys = [(line["key"]["spec"], line["schedule"]) for line in self.lines() if line["status"] == "candidate"]
        self.assertLessEqual(len(keys) - len(set(keys)), 1)  # the default alone is measured again


class Locked(Case):
    """By a process that does not let go of the file of results."""

    def setUp(self):
        super().setUp()
        self.holder = open(self.out, "w")
        self.addCleanup(self.holder.close)
        fcntl.flock(self.holder, fcntl.LOCK_EX)

    def test_one_signal_ends_the_wait(self):
        process = subprocess.Popen([COMMAND, "autotune", *SMALL, "--budget", "300", "--out", str(self.out), "--json"],
                                   env=self.environment(HYPERJIT_LOCK_TIMEOUT="300"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, cwd=self.folder)
        deadline = time.time() + 60
        while time.time() < deadline and not (self.cache / "tuning/.measuring-cpu").exists():
            time.sleep(0.05)
        time.sleep(3)  # the first candidate is measured, if the machine is not busy
        process.send_signal(signal.SIGINT)
        try:
            stdout, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
        self.assertEqual(process.returncode, 1, stderr)
        self.assertEqual(json.loads(stdout)["schema"], "hyperjit.autotune/1")

    def test_results_are_kept_all_the_same(self):
        done = self.run_command("autotune", *SMALL, "--budget", 60, "--out", self.out, HYPERJIT_LOCK_TIMEOUT="1")
        self.assertEqual(done.stderr.count("out.jsonl is locked by another process; results are written all the same"), 1)
        self.assertEqual(sum(line["status"] == "ok" for line in self.lines()), 2)
        whole = self.out.read_text()
        done = self.run_command("autotune", "prune", self.out, code=3, HYPERJIT_LOCK_TIMEOUT="1")
        self.assertIn("out.jsonl is locked by another process; it is left as it is", done.stderr)
        self.assertEqual(self.out.read_text(), whole)


class Results(Case):
    def record(self, spec, schedule, base, **changes):
        self.tune("static:n=2,d=32", *KERNEL, "--tokens", "128", "--budget", 10)
        line = next(l for l in self.lines() if l["status"] == "ok")
        answer = self.tune(spec, *KERNEL, "--tokens", "128", "--budget", 10)
        own = [l for l in self.lines() if l["status"] == "ok" and l["key"]["spec"] == answer["results"][0]["spec"]][-1]
        line = {**own, "schedule": schedule, "base": base, "us": 50.0, "base_us": 100.0}
        for path, value in changes.items():
            line["env"] = {**line["env"], path: value}
        return line

    def shown(self, **settings):
        done = self.run_command("show", self.kernel, "--target", TARGET, "--json", **settings)
        return json.loads(done.stdout)["kernels"][0]["schedule"], done.stderr

    def test_a_run_takes_what_a_file_names(self):
        self.kernel, schedules = self.default("static:n=2,d=48")
        other = next(s for s in schedules if "tokens=8" in s)
        line = self.record("static:n=2,d=48", other, schedules[0])
        self.assertEqual(line["key"]["spec"], self.kernel)
        folder = self.folder / "tuning"
        folder.mkdir()
        (folder / "a.jsonl").write_text(json.dumps(line) + "\n")
        self.assertEqual(self.shown(), (schedules[0], ""))
        for place in (folder, folder / "a.jsonl"):
            self.assertEqual(self.shown(HYPERJIT_TUNING_PATH=str(place)), (other, ""))
        # Beside the cache it is found by itself, and beside a read-only layer too.
        shutil.copytree(folder, self.cache / "tuning", dirs_exist_ok=True)
        self.assertEqual(self.shown(), (other, ""))
        shutil.move(self.cache, self.folder / "layer")
        self.assertEqual(self.shown(HYPERJIT_CACHE_PATH=str(self.folder / "layer")), (other, ""))
        # Broken lines, other compilers and illegal schedules are said once and change nothing.
        (folder / "a.jsonl").write_text("nonsense\n" + json.dumps({**line, "env": {**line["env"], "compiler": "other"}}) + "\n")
        schedule, said = self.shown(HYPERJIT_TUNING_PATH=str(folder))
        self.assertEqual(schedule, schedules[0])
        self.assertIn("1 of its lines are no results and are skipped (line 1: it is no JSON object); 1 of its results are of "
                      "another compiler and are ignored", said)
        self.assertEqual(said.count("warning"), 1)
        (folder / "a.jsonl").write_text(json.dumps({**line, "schedule": "blocks:tokens=5"}) + "\n")
        schedule, said = self.shown(HYPERJIT_TUNING_PATH=str(folder))
        self.assertEqual(schedule, schedules[0])
        self.assertIn("tokens is 5; legal are 4 to 64, powers of two", said)
        schedule, said = self.shown(HYPERJIT_TUNING_PATH=str(self.folder / "absent.jsonl"))
        self.assertEqual(schedule, schedules[0])
        self.assertIn("cannot be read: No such file or directory; it is ignored", said)

    def test_merge_and_prune(self):
        kernel, schedules = self.default("static:n=2,d=48")
        line = self.record("static:n=2,d=48", schedules[1], schedules[0])
        a, b, merged = (self.folder / name for name in ("a.jsonl", "b.jsonl", "merged.jsonl"))
        foreign = {**line, "env": {**line["env"], "compiler": "other"}}
        newer = {**line, "schedule": "auto"}
        a.write_text(json.dumps(line) + "\n" + json.dumps(foreign) + "\n")
        b.write_text(json.dumps({**line, "status": "candidate"}) + "\n" + json.dumps(newer) + "\n")
        self.run_command("autotune", "merge", a, b, "--out", merged)
        self.assertEqual(self.lines(merged), [newer, foreign])
        self.run_command("autotune", "prune", merged)
        self.assertEqual(self.lines(merged), [newer])
        # What another version would make of its lines is not known here.
        later = json.dumps({"v": 2, "what": ["anything"]})
        for path in (a, merged):
            path.write_text(path.read_text() + later + "\n")
        self.run_command("autotune", "prune", merged)
        self.assertEqual(self.lines(merged), [newer, json.loads(later)])
        self.run_command("autotune", "merge", a, merged, "--out", merged)
        self.assertEqual(self.lines(merged), [newer, foreign, json.loads(later)])
        a.write_text(a.read_text().replace(later + "\n", ""))
        notes = self.folder / "notes.md"
        notes.write_text("# Notes\nnot ours\n")
        done = self.run_command("autotune", "prune", notes, code=2)
        self.assertIn("notes.md holds no result of a search; it is left as it is", done.stderr)
        self.assertEqual(notes.read_text(), "# Notes\nnot ours\n")
        b.write_text("broken\n")
        done = self.run_command("autotune", "merge", a, b, "--out", merged, code=1)
        self.assertIn("b.jsonl, line 1: it is no JSON object; it is dropped", done.stderr)
        self.assertEqual(self.lines(merged), [line, foreign])

    def test_check_flags_what_no_longer_wins(self):
        kernel, schedules = self.default("static:n=2,d=48")
        line = self.record("static:n=2,d=48", schedules[0], schedules[0])  # the default cannot beat itself
        path = self.folder / "check.jsonl"
        others = [{**line, "schedule": "auto", "key": {**line["key"], "spec": line["key"]["spec"].replace("d=48", "d=56")}},
                  {**line, "env": {**line["env"], "compiler": "other"}}]
        path.write_text("".join(json.dumps(each) + "\n" for each in [line, *others]))
        # On a busy machine one of two equal schedules may look 2 % faster for once, and not five times.
        for _ in range(5):
            done = subprocess.run([COMMAND, "autotune", "--check", str(path), "--json"], env=self.environment(),
                                  capture_output=True, text=True, timeout=300, cwd=self.folder)
            if done.returncode == 1:
                break
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        answer = json.loads(done.stdout)
        self.assertEqual([(c["wins"], c["verdict"]) for c in answer["checked"]], [(False, "no longer wins")])
        self.assertEqual([s["why"] for s in answer["skipped"]], ["the default stays", "of another compiler"])
        path.write_text("".join(json.dumps(each) + "\n" for each in others))
        self.run_command("autotune", "--check", path)
        # What cannot be opened here keeps nothing else from being checked.
        unknown = [{**line, "env": {**line["env"], "target": "sm_777"}},
                   {**line, "key": {**line["key"], "spec": line["key"]["spec"].replace("static", "nobodys")}}]
        path.write_text("".join(json.dumps(each) + "\n" for each in [*unknown, *others]))
        done = subprocess.run([COMMAND, "autotune", "--check", str(path), "--json"], env=self.environment(),
                              capture_output=True, text=True, timeout=300, cwd=self.folder)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        reasons = [s["why"] for s in json.loads(done.stdout)["skipped"]]
        self.assertEqual(len(reasons), 4, reasons)
        self.assertIn("unknown target 'sm_777'", reasons[0])
        self.assertIn("unknown recipe 'nobodys'", reasons[1])


class Usage(Case):
    def test_list_and_dry_run_need_no_machine(self):
        for target in ("sm_90a/h100", "x86-64-v4"):
            answer = json.loads(self.run_command("autotune", "static:n=4,d=64", "--target", target, "--list", "--json").stdout)
            self.assertEqual(len(answer["kernels"]), 6)  # static saves nothing: forward in training is forward without gradients
            for kernel in answer["kernels"]:
                self.assertEqual(kernel["count"], len(kernel["schedules"]))
            text = self.run_command("autotune", "static:n=4,d=64", "--target", target, "--dry-run").stdout
            self.assertEqual(text.count(" legal schedules\n"), 6)
        # What is recorded is what a run looks for: static saves nothing, whoever asks it to.
        kernel = "before(static:n=4,m=1,d=64,dtype=fp32):forward:save:tokens=large"
        answer = json.loads(self.run_command("autotune", kernel, "--list", "--json").stdout)
        self.assertEqual([each["spec"] for each in answer["kernels"]], [kernel.replace(":save", ":infer")])
        self.assertFalse((self.cache / "tuning").exists())

    def test_the_order_of_specs_changes_nothing(self):
        for bucket in ("small", "large"):
            specs = [f"before(static:n=2,m=1,d=64,dtype=fp32):forward:infer:tokens={bucket}", "dynamic:n=2,d=64"]
            kernels = [sorted((k["spec"], k["tokens"]) for k in
                              json.loads(self.run_command("autotune", *order, "--tokens", "4096", "--dry-run", "--json").stdout)["kernels"])
                       for order in (specs, specs[::-1])]
            self.assertEqual(kernels[0], kernels[1])
            self.assertEqual([tokens for spec, tokens in kernels[0] if spec.endswith("small")], [64] if bucket == "small" else [])

    def test_more_tokens_than_memory_is_said(self):
        for spec in ("static:n=2,d=64", "static:n=32,d=16777216,dtype=fp64"):
            kernel = ["--role", "before", "--direction", "forward", "--target", TARGET, "--tokens", "4294967296"]
            answer = self.tune(spec, *kernel, code=1)
            for result in answer["results"]:
                self.assertRegex(result["error"], r"no memory for \d+ bytes|has more bytes than can be counted; name fewer with --tokens")

    def test_results_that_no_run_would_read_are_refused(self):
        self.cache.mkdir(mode=0o777)
        self.cache.chmod(0o777)
        done = self.run_command("autotune", *SMALL, code=3)
        self.assertIn("which is not trusted: name a file with --out FILE.jsonl", done.stderr)
        self.assertEqual(list(self.cache.iterdir()), [])

    def test_mistakes(self):
        for code, message, arguments in [
            (2, "one kernel serves both (small is up to 64 tokens, large is above)", ["static", "--tokens", "128,4096"]),
            (2, "no kernel to tune", []),
            (2, "0 is not a number above 0", ["static", "--budget", "0"]),
            (2, "--timeout: 1e18 is more than 86400", ["static", "--timeout", "1e18"]),
            (2, "--tokens: 9223372036854775807 is not a whole number from 1 to 4294967296", ["static", "--tokens", "9223372036854775807"]),
            (2, "--tokens: 1e3 is not a whole number from 1 to", ["static", "--tokens", "1e3"]),
            (2, "--out and --plot both name 'r.svg'", ["static", "--out", "./r.svg", "--plot", "r.svg"]),
            (2, "--out and --json both name 'r.json'", ["static", "--out", "r.json", "--json", "r.json"]),
            (2, "--check and --json both name 'r.json'", ["--check", "r.json", "--json", "r.json"]),
            (2, "prune and --json both name 'r.json'", ["prune", "r.json", "--json=r.json"]),
            (2, "recipe", ["statik:n=4"]),
            (2, "autotune merge A.jsonl B.jsonl --out FILE.jsonl", ["merge", "a.jsonl"]),
            (2, "--from-record and --specs both name the file", ["--from-record", "a", "--specs", "b"]),
            (2, "--check absent.jsonl: the file cannot be read", ["--check", "absent.jsonl"]),
            (2, "SPEC excludes --check", ["--check", "absent.jsonl", "static:n=2,d=32"]),
            (2, "--check excludes --plot", ["--check", "absent.jsonl", "--plot", "search.svg"]),
            (3, "cannot write 'absent/search.svg': absent: No such file or directory", [*SMALL, "--plot", "absent/search.svg"]),
            (3, "results cannot be kept in /proc/none/a.jsonl: ", ["static", "--out", "/proc/none/a.jsonl"]),
            (3, "nothing can be measured", ["static", "--target", "sm_80", "--out", "a.jsonl"]),
        ]:
            with self.subTest(message):
                self.assertIn(message, self.run_command("autotune", *arguments, code=code).stderr)

    def test_a_wrong_line_is_named_and_the_others_are_tuned(self):
        (self.folder / "specs.txt").write_text("nobodys:n=2\ndynamic:n=2,d=64\n")
        answer = self.tune("--specs", "specs.txt", *KERNEL, "--tokens", "256", "--budget", 60, code=1)
        self.assertEqual([failed["spec"] for failed in answer["failed"]], ["nobodys:n=2"])
        self.assertIn("specs.txt, line 1: unknown recipe 'nobodys'", answer["failed"][0]["error"])
        self.assertEqual(len(answer["results"]), 2)

    def test_a_folder_that_is_not_written_is_a_lock_too(self):
        self.cache.mkdir()
        folder = os.open(self.cache, os.O_RDONLY)
        self.addCleanup(os.close, folder)
        fcntl.flock(folder, fcntl.LOCK_EX)
        process = subprocess.Popen([COMMAND, "autotune", *SMALL, "--budget", "2", "--out", str(self.out)],
                                   env=self.environment(HYPERJIT_CACHE="ro"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   text=True, cwd=self.folder)
        self.assertIn("another search is measuring on this machine", process.stderr.readline())
        fcntl.flock(folder, fcntl.LOCK_UN)
        stderr = process.communicate(timeout=120)[1]
        self.assertEqual(process.returncode, 0, stderr)
        self.assertEqual(list(self.cache.iterdir()), [])

    def test_both_buckets_keep_one_order(self):
        answer = self.tune("static:n=2,d=32", "--role", "after", "--direction", "forward", "--tokens", "16,512", "--budget", 60,
                           "--target", TARGET)
        orders = {}
        for result in answer["results"]:
            numbers = dict(pair.split("=") for pair in result["best"]["schedule"].split(":")[1].split(","))
            orders[result["tokens"]] = (numbers["tokens"], numbers["vector"])
        self.assertEqual(set(orders), {16, 512})
        # What small was measured with is either the large one's order or the default, which then is not used.
        small = next(r for r in answer["results"] if r["tokens"] == 16)
        if small["tuned"]:
            self.assertEqual(orders[16], orders[512])


class Gpu(Case):
    def test_search_on_a_gpu(self):
        dry = json.loads(self.run_command("autotune", "static:n=2,d=64", "--dry-run", "--json").stdout)
        if not dry["target"].startswith("sm_"):
            self.skipTest("no GPU")
        answer = self.tune("manifold:n=4,d=1024,dtype=bf16", "--role", "boundary", "--tokens", "2048", "--budget", "60",
                           HYPERJIT_TUNING_FAULT="crash:vector=2;wrong:warps=6")
        self.assertEqual(len(answer["results"]), 3)
        for result in answer["results"]:
            self.assertTrue(result["best"]["schedule"].startswith("rows:"))
            self.assertLessEqual(result["best"]["us"], result["default"]["us"])
            self.assertNotRegex(result["best"]["schedule"], "vector=2|warps=6")
        self.assertGreaterEqual(sum(line["status"] == "candidate" for line in self.lines()), 6)


if __name__ == "__main__":
    unittest.main()
