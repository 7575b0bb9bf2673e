#!/usr/bin/env python3
# The command where something around it is not as it should be: it is told to end, has nowhere to print, a tool fails, a line of a file
# is wrong, the cache is not to be written, a library is half there.
# SPDX-License-Identifier: Apache-2.0
import json
import os
import pathlib
import shutil
import signal
import subprocess
import unittest

from case import COMMAND, Case, needs_compiler

KERNEL = "before(static:n=2,m=1,d=64,dtype=fp32):forward:infer:tokens=large"
EMULATOR = os.environ.get("HYPERJIT_TEST_EMULATOR")  # a folder with a libcuda and a libnvrtc that run on the CPU


class Ended(Case):
    def test_one_signal_ends_what_has_nothing_to_finish(self):
        os.mkfifo(self.folder / "pipe")
        for arguments in (["cache", "missing", "--log", "pipe"], ["show", "pipe:n=2", "--recipe", "pipe"], ["precompile", "--specs", "pipe"],
                          ["autotune", "--specs", "pipe"]):
            for how in (signal.SIGINT, signal.SIGTERM):
                with self.subTest(arguments, how=how):
                    process = subprocess.Popen([COMMAND, *arguments], env=self.environment(), stdout=subprocess.DEVNULL,
                                               stderr=subprocess.PIPE, text=True, cwd=self.folder,
                                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
                    with open(self.folder / "pipe", "w"):  # opened once it reads
                        process.send_signal(how)
                        try:
                            process.communicate(timeout=20)
                        finally:
                            process.kill()
                    self.assertEqual(process.returncode, -how)


class Descriptors(Case):
    def shell(self, redirections, *arguments):
        return subprocess.run(["sh", "-c", f'exec "$@" {redirections}', "sh", COMMAND, *arguments], env=self.environment(),
                              capture_output=True, text=True, timeout=120, cwd=self.folder)

    @needs_compiler
    def test_work_goes_on_where_nobody_can_be_told(self):
        (self.folder / "specs.txt").write_text(f"nobodys:n=2\n{KERNEL}\n")
        for redirections in ("2>/dev/full", "2>&-", "0>&- 2>&-"):
            with self.subTest(redirections):
                done = self.shell(redirections, "precompile", "--specs", "specs.txt", "--out", "kernels", "--json")
                self.assertEqual(done.returncode, 1)
                answer = json.loads(done.stdout)
                self.assertEqual((answer["compiled"], len(answer["failed"])), (1, 1))
                shutil.rmtree(self.folder / "kernels")
        # verify, a complaint a file
        self.good("precompile", KERNEL)
        entry = next(self.cache.glob("v1/*/*.hjk"))
        entry.write_bytes(entry.read_bytes()[:-1])
        done = self.shell("2>/dev/full", "cache", "verify", "--json")
        self.assertEqual((done.returncode, len(json.loads(done.stdout)["bad"])), (1, 1))

    def test_no_file_takes_the_place_of_a_closed_descriptor(self):
        done = self.shell("0<&- 1>&- 2>&-", "env", "--json=answer.json")  # all that was asked for is in the file
        self.assertEqual(done.returncode, 0)
        self.assertEqual(json.loads((self.folder / "answer.json").read_text())["schema"], "hyperjit.env/1")
        done = self.shell("1>&-", "env")
        self.assertEqual((done.returncode, done.stderr), (3, "hyperjit: not all could be written to the standard output\n"))
        self.assertEqual(self.shell("1>&- 2>&-", "env").returncode, 3)


@needs_compiler
class Disassembler(Case):
    """nvdisasm by a stand-in: what it is given, and what becomes of its failure."""

    def stand_in(self, text):
        tools = self.folder / "tools"
        tools.mkdir(exist_ok=True)
        (tools / "nvdisasm").write_text("#!/bin/sh\n" + text)
        (tools / "nvdisasm").chmod(0o755)
        return {"PATH": f"{tools}:{os.environ['PATH']}", "TMPDIR": str(self.temporary)}

    def setUp(self):
        super().setUp()
        self.nvrtc()
        self.temporary = self.folder / "it's $(touch injected) `touch injected`"
        self.temporary.mkdir()
        self.show = ["show", KERNEL, "--stage", "sass", "--target", "sm_90a"]

    def test_reads_a_file_of_its_own(self):
        settings = self.stand_in('echo "$1"; stat -c "%a %F" "$(dirname "$2")"; head -c 4 "$2" | tail -c 3; echo\n')
        self.assertRegex(self.good(*self.show, **settings), r"\A(-c\n700 directory\nELF\n)+\Z")  # once a binary
        self.assertEqual(list(self.temporary.iterdir()), [])
        self.assertEqual([p for p in self.folder.rglob("injected")], [])

    def test_a_failure_is_no_empty_answer(self):
        for message, text in (("nvdisasm ended with 1: no such architecture", "echo no such architecture >&2; exit 1\n"),
                              ("nvdisasm died of signal 9", "kill -9 $$\n"), ("nvdisasm ended with 7", "echo half; exit 7\n")):
            with self.subTest(message):
                done = self.fails(3, message, *self.show, **self.stand_in(text))
                self.assertEqual(done.stdout, "")
                self.assertEqual(list(self.temporary.iterdir()), [])
        settings = self.stand_in("")
        self.fails(3, "no folder can be made in /proc", *self.show, **{**settings, "TMPDIR": "/proc"})
        self.fails(3, "no folder can be made in TMPDIR", *self.show, **{**settings, "TMPDIR": "/nonexistent"})
        self.fails(3, "nvdisasm is not on PATH", *self.show, PATH="/nonexistent", TMPDIR=str(self.temporary))


@needs_compiler
class SpecFiles(Case):
    def test_a_wrong_line_is_named_and_the_others_are_good(self):
        (self.folder / "specs.txt").write_text(f"# ours\n\n{KERNEL}\nnobodys:n=2\nstatic:n=none\n{KERNEL}\n")
        self.good("precompile", KERNEL)
        wrong = ["specs.txt, line 4: unknown recipe 'nobodys'", "specs.txt, line 5: "]
        for key, arguments in (("entries", ["precompile"]), ("kernels", ["cache", "explain"]), ("kernels", ["autotune", "--dry-run"]),
                               ("rows", ["bench", "--mode", "alone", "--tokens", "128", "--repeats", "1", "--device", "cpu"])):
            with self.subTest(arguments):
                done = self.run_command(*arguments, "--specs", "specs.txt", "--json")
                if "this build has no LibTorch part" in done.stderr:
                    continue
                self.assertEqual(done.returncode, 1, done.stderr)
                answer = json.loads(done.stdout)
                self.assertEqual({each["spec"] for each in answer[key]}, {KERNEL})
                self.assertEqual([each["spec"] for each in answer["failed"]], ["nobodys:n=2", "static:n=none"])
                for message, failed in zip(wrong, answer["failed"]):
                    self.assertTrue(failed["error"].startswith(message), failed)
                    self.assertIn(message, done.stderr)
                # Nothing but mistakes is a finding too, one on the command line is of usage.
                (self.folder / "worse.txt").write_text("nobodys:n=2\n")
                self.fails(1, "worse.txt, line 1: unknown recipe 'nobodys'", *arguments, "--specs", "worse.txt")
                self.fails(2, "unknown recipe 'nobodys'", *arguments, "nobodys:n=2")

    def test_jobs(self):
        processors = len(os.sched_getaffinity(0))
        for jobs, arguments, settings in ((3, ["--jobs", "3"], {"HYPERJIT_COMPILE_JOBS": "2"}), (5, [], {"HYPERJIT_COMPILE_JOBS": "5"})):
            self.assertEqual(self.json("precompile", KERNEL, *arguments, **settings)["jobs"], jobs)
        self.assertLessEqual(self.json("precompile", KERNEL)["jobs"], processors)
        first = {next(iter(os.sched_getaffinity(0)))}
        done = subprocess.run([COMMAND, "precompile", KERNEL, "--json"], env=self.environment(), capture_output=True, text=True,
                              timeout=120, preexec_fn=lambda: os.sched_setaffinity(0, first))
        self.assertEqual(json.loads(done.stdout)["jobs"], 1)


@needs_compiler
class ReadOnly(Case):
    def state(self):
        return {path: path.stat().st_mtime_ns for path in self.cache.rglob("*")}

    def test_is_read_and_never_written(self):
        self.good("precompile", KERNEL)
        self.good("show", KERNEL)
        counted = self.json("cache", "stats", command="cache-stats")
        self.assertGreater(counted["processes"], 0)
        before = self.state()
        self.assertEqual(self.json("cache", "stats", command="cache-stats", HYPERJIT_CACHE="ro"), counted)
        for command in ("clear", "prune"):
            for mode in ("ro", "off"):
                done = self.fails(3, f"nothing was removed: HYPERJIT_CACHE={mode} keeps the cache folder as it is", "cache", command,
                                  HYPERJIT_CACHE=mode)
                self.assertEqual(done.stdout, "")
        self.good("autotune", KERNEL, "--out", "out.jsonl", "--budget", "1", HYPERJIT_CACHE="ro")
        self.good("cache", "pack", "all.hjpack", HYPERJIT_CACHE="ro")
        self.fails(3, "nothing was unpacked: HYPERJIT_CACHE=ro keeps the cache folder as it is; name another with --to DIR", "cache",
                   "unpack", "all.hjpack", HYPERJIT_CACHE="ro")
        self.good("cache", "unpack", "all.hjpack", "--to", "other", HYPERJIT_CACHE="ro")
        self.assertEqual(self.state(), before)
        self.fails(3, "there is no cache folder: set HYPERJIT_CACHE_DIR", "cache", "clear", HYPERJIT_CACHE_DIR="", HOME="",
                   XDG_CACHE_HOME="")


class Doctor(Case):
    def checks(self, code=0, command=COMMAND, **settings):
        done = subprocess.run([command, "doctor", "--json"], env=self.environment(**settings), capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return json.loads(done.stdout)["checks"]

    def named(self, name, *arguments, **settings):
        return [check for check in self.checks(*arguments, **settings) if check["name"] == name]

    @needs_compiler
    def test_a_cache_that_is_not_written_by_wish(self):
        for kernels in (0, 1):
            checks = self.checks(HYPERJIT_CACHE="ro")
            self.assertEqual([check for check in checks if check["name"] == "shipped kernels"], [])
            cache = next(check for check in checks if check["name"] == "cache")
            self.assertEqual(cache["found"], f"{self.cache} (HYPERJIT_CACHE=ro: it is read and never written): {kernels} kernels")
            self.assertEqual((cache["ok"], cache["optional"]), (kernels > 0, True))
            self.assertIn("set HYPERJIT_CACHE to rw", cache["advice"])
            self.good("precompile", KERNEL)
        self.assertIn("HYPERJIT_CACHE at rw", self.named("cache", HYPERJIT_CACHE="off")[0]["advice"])
        # What others may write is not read either.
        self.cache.chmod(0o777)
        self.assertIn("writable by everybody", self.named("cache", 1, HYPERJIT_CACHE="ro")[0]["found"])
        # And what is shipped still is.
        self.good("precompile", KERNEL, "--out", "kernels")
        self.assertEqual(len(self.named("shipped kernels", HYPERJIT_CACHE="off", HYPERJIT_CACHE_PATH=str(self.folder / "kernels"))), 0)
        self.cache.chmod(0o700)
        shipped = self.named("shipped kernels", HYPERJIT_CACHE="ro", HYPERJIT_CACHE_PATH=str(self.folder / "kernels"))
        self.assertEqual([check["found"] for check in shipped], [f"{self.folder / 'kernels'}: 1 kernels"])

    @needs_compiler
    def test_a_library_that_is_none(self):
        command = self.folder / "bin/hyperjit"
        command.parent.mkdir()
        (self.folder / "lib").mkdir()
        shutil.copy(COMMAND, command)
        libraries = {"LD_LIBRARY_PATH": str(pathlib.Path(COMMAND).parents[1] / "lib")}
        torch = self.named("libtorch tools", command=command, **libraries)[0]
        self.assertEqual((torch["ok"], torch["optional"]), (False, True))
        (self.folder / "lib/libhyperjit-tools.so").write_text("junk")
        torch = self.named("libtorch tools", command=command, **libraries)[0]
        self.assertEqual((torch["ok"], torch["optional"]), (False, True))
        self.assertIn("file too short", torch["found"])
        self.assertIn("HYPERJIT_BUILD_TORCH=ON", torch["advice"])

    @needs_compiler
    def test_launches_on_a_gpu(self):
        name = "launch on the GPU"
        if not EMULATOR or not os.path.exists(os.path.join(EMULATOR, "libcuda.so.1")):
            self.skipTest("no emulated GPU is built")
        gpu = {"LD_LIBRARY_PATH": EMULATOR, "HYPERJIT_NVRTC_PATH": os.path.join(EMULATOR, "libnvrtc.so.13")}
        check = self.named(name, **gpu)[0]
        self.assertTrue(check["ok"], check)
        self.assertRegex(check["found"], r"^before\(static:.* for sm_\w+ in ")
        # Without NVRTC that is what is missing, and no problem of the machine.
        check = self.named(name, **{**gpu, "HYPERJIT_NVRTC_PATH": "/nonexistent"}, HYPERJIT_CACHE="off")[0]
        self.assertEqual((check["ok"], check["optional"]), (False, True))
        self.assertIn("libnvrtc", check["found"])


if __name__ == "__main__":
    unittest.main()
