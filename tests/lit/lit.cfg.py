# SPDX-License-Identifier: Apache-2.0
import os

import lit.formats

config.name = "hyperjit"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir"]
config.test_source_root = config.hyperjit_source
config.test_exec_root = config.hyperjit_binary
config.environment["PATH"] = os.pathsep.join([config.hyperjit_tools, config.llvm_tools, os.environ["PATH"]])
# A variable of one function must not leak into the next one's checks.
config.environment["FILECHECK_OPTS"] = "-enable-var-scope"
