# LibTorch as one imported target, made from the include/ and lib/ of the torch wheel or of a LibTorch archive.
# SPDX-License-Identifier: Apache-2.0
#
# find_package(Torch) enables the CUDA language and wants a toolkit with nvcc; code that needs only NVRTC needs neither.
# Input:  HYPERJIT_LIBTORCH (a folder with include/ and lib/), else Python_EXECUTABLE, else .venv/bin/python of the source tree.
# Output: LibTorchLite::torch, LibTorchLite_ROOT, LibTorchLite_VERSION, LibTorchLite_CXX11_ABI, LibTorchLite_PYTHON (may be empty).

if(NOT HYPERJIT_LIBTORCH AND DEFINED ENV{HYPERJIT_LIBTORCH})
  set(HYPERJIT_LIBTORCH "$ENV{HYPERJIT_LIBTORCH}")
endif()
set(LibTorchLite_PYTHON "")
if(HYPERJIT_LIBTORCH)
  set(LibTorchLite_ROOT "${HYPERJIT_LIBTORCH}")
  set(LibTorchLite_CXX11_ABI 1)
  if(EXISTS "${LibTorchLite_ROOT}/build-version")
    file(STRINGS "${LibTorchLite_ROOT}/build-version" LibTorchLite_VERSION LIMIT_COUNT 1)
  elseif(EXISTS "${LibTorchLite_ROOT}/version.py")
    file(STRINGS "${LibTorchLite_ROOT}/version.py" _line REGEX "^__version__")
    string(REGEX REPLACE ".*'([^']+)'.*" "\\1" LibTorchLite_VERSION "${_line}")
  endif()
else()
  if(NOT Python_EXECUTABLE)
    find_program(Python_EXECUTABLE python NAMES python3
                 HINTS "${PROJECT_SOURCE_DIR}/.venv/bin" "${CMAKE_CURRENT_LIST_DIR}/../.venv/bin" NO_DEFAULT_PATH)
  endif()
  if(NOT Python_EXECUTABLE)
    find_program(Python_EXECUTABLE NAMES python3)
  endif()
  if(Python_EXECUTABLE)
    # Read without importing torch: that takes seconds and fails where a dependency of the Python side is missing.
    execute_process(
      COMMAND "${Python_EXECUTABLE}" -c
              "import importlib.util as u, importlib.metadata as m, os; s = u.find_spec('torch'); print(os.path.dirname(s.origin)); print(m.version('torch'))"
      OUTPUT_VARIABLE _out ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE _failed)
    if(NOT _failed)
      string(REPLACE "\n" ";" _out "${_out}")
      list(GET _out 0 LibTorchLite_ROOT)
      list(GET _out 1 LibTorchLite_VERSION)
      set(LibTorchLite_CXX11_ABI 1) # every wheel since 2.7
      set(LibTorchLite_PYTHON "${Python_EXECUTABLE}")
    endif()
  endif()
endif()

find_path(LibTorchLite_INCLUDE_DIR torch/csrc/api/include/torch/torch.h
          PATHS "${LibTorchLite_ROOT}/include" NO_DEFAULT_PATH NO_CACHE)
foreach(_name torch torch_cpu c10 torch_cuda c10_cuda)
  find_library(LibTorchLite_${_name} ${_name} PATHS "${LibTorchLite_ROOT}/lib" NO_DEFAULT_PATH NO_CACHE)
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  LibTorchLite
  REQUIRED_VARS LibTorchLite_ROOT LibTorchLite_INCLUDE_DIR LibTorchLite_torch LibTorchLite_torch_cpu LibTorchLite_c10
  VERSION_VAR LibTorchLite_VERSION
  REASON_FAILURE_MESSAGE
    "run scripts/setup (installs torch==2.11.0 in .venv), or set HYPERJIT_LIBTORCH to a LibTorch folder, or Python_EXECUTABLE to a Python with torch")

if(LibTorchLite_FOUND AND NOT TARGET LibTorchLite::torch)
  add_library(LibTorchLite::torch INTERFACE IMPORTED GLOBAL)
  target_include_directories(LibTorchLite::torch SYSTEM INTERFACE
                             "${LibTorchLite_INCLUDE_DIR}" "${LibTorchLite_INCLUDE_DIR}/torch/csrc/api/include")
  target_compile_definitions(LibTorchLite::torch INTERFACE "_GLIBCXX_USE_CXX11_ABI=${LibTorchLite_CXX11_ABI}")
  set(_libraries "${LibTorchLite_torch}" "${LibTorchLite_torch_cpu}" "${LibTorchLite_c10}")
  # The device library registers CUDA with the dispatcher when it is loaded; only bench calls it by name.
  foreach(_name torch_cuda c10_cuda)
    if(LibTorchLite_${_name})
      list(APPEND _libraries "${LibTorchLite_${_name}}")
    endif()
  endforeach()
  target_link_libraries(LibTorchLite::torch INTERFACE -Wl,--no-as-needed ${_libraries} -Wl,--as-needed)
  target_link_options(LibTorchLite::torch INTERFACE "-Wl,-rpath,${LibTorchLite_ROOT}/lib"
                      "-Wl,-rpath-link,${LibTorchLite_ROOT}/lib" "-Wl,--allow-shlib-undefined")
endif()
