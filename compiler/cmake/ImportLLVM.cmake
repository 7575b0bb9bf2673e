# The only file that knows LLVM: finds MLIR 22.1 and makes its archives link statically and hidden.
# SPDX-License-Identifier: Apache-2.0
find_package(MLIR 22.1 REQUIRED CONFIG HINTS "${MLIR_DIR}" "$ENV{MLIR_DIR}" /usr/lib/llvm-22/lib/cmake/mlir)
list(APPEND CMAKE_MODULE_PATH "${MLIR_CMAKE_DIR}" "${LLVM_CMAKE_DIR}")
include(TableGen)

# Debian's exported MLIR archives name the shared library LLVM in their link interface, so that linking static MLIR
# would still drag in libLLVM. Swap it for component archives; imported targets are folder-scoped, hence included in compiler/.
set(LLVM_LINK_LLVM_DYLIB OFF)
llvm_map_components_to_libnames(HYPERJIT_LLVM_ARCHIVES Core Support TransformUtils FrontendOpenMP FrontendOffloading
                                BitWriter OrcJIT native Passes Object AsmPrinter)
get_property(_mlirLibraries GLOBAL PROPERTY MLIR_ALL_LIBS)
foreach(_library IN LISTS MLIR_ALL_LIBS MLIR_EXPORTED_TARGETS _mlirLibraries)
  if(TARGET ${_library})
    get_target_property(_dependencies ${_library} INTERFACE_LINK_LIBRARIES)
    if(_dependencies AND "LLVM" IN_LIST _dependencies)
      list(REMOVE_ITEM _dependencies LLVM)
      list(APPEND _dependencies ${HYPERJIT_LLVM_ARCHIVES})
      set_target_properties(${_library} PROPERTIES INTERFACE_LINK_LIBRARIES "${_dependencies}")
    endif()
  endif()
endforeach()

# Flags of everything that sees MLIR. Debian builds LLVM with RTTI and without exceptions and assertions.
add_library(hyperjit_mlir INTERFACE)
target_include_directories(hyperjit_mlir SYSTEM INTERFACE ${LLVM_INCLUDE_DIRS} ${MLIR_INCLUDE_DIRS})
target_include_directories(hyperjit_mlir INTERFACE "${PROJECT_SOURCE_DIR}/compiler/include"
                           "${PROJECT_BINARY_DIR}/compiler/include")
separate_arguments(_definitions NATIVE_COMMAND "${LLVM_DEFINITIONS}")
target_compile_options(hyperjit_mlir INTERFACE ${_definitions} -fno-exceptions -O1 -g0 -ffunction-sections
                       -fdata-sections -Wno-unused-parameter -Wno-comment)

# One precompiled header for all MLIR sources: what costs 25 s a translation unit otherwise costs 5 s.
function(hyperjit_mlir_library name)
  add_library(${name} STATIC ${ARGN})
  target_link_libraries(${name} PUBLIC hyperjit_mlir)
  if(TARGET HCIncGen)
    add_dependencies(${name} HCIncGen)
  endif()
  if(NOT name STREQUAL "HyperjitMLIRPrecompiled")
    target_precompile_headers(${name} REUSE_FROM HyperjitMLIRPrecompiled)
  endif()
endfunction()
