# What ctest gives every test when it is started at the root of a build, as scripts/test does.
# SPDX-License-Identifier: Apache-2.0

# Tests run side by side on few cores. OpenMP's threads spin while they wait, which took the tests of LibTorch most of
# their time (conformance's chains: 15 s instead of 3).
if(NOT DEFINED ENV{OMP_WAIT_POLICY})
  set(ENV{OMP_WAIT_POLICY} passive)
endif()
