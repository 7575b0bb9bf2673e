# What ctest gives every test, read when it reads the list of tests.
# SPDX-License-Identifier: Apache-2.0

# Tests run side by side on few cores. OpenMP's threads spin while they wait, which took the tests of LibTorch most of
# their time (conformance's chains: 15 s instead of 3).
if(NOT DEFINED ENV{OMP_WAIT_POLICY})
  set(ENV{OMP_WAIT_POLICY} passive)
endif()
