# Installs this build, uses it from a project of its own, moves the installed tree, and uses it again.
# cmake -DBUILD=DIR -DSOURCE=DIR -DREADME=FILE -DWORK=DIR -DTORCH=ON|OFF -P package.cmake
# SPDX-License-Identifier: Apache-2.0
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " text)
    message(FATAL_ERROR "failed (${status}): ${text}")
  endif()
endfunction()

file(REMOVE_RECURSE "${WORK}")
file(MAKE_DIRECTORY "${WORK}")
run("${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${WORK}/first" --strip)
foreach(text LICENSE libsodium-dev.copyright llvm-22-dev.copyright)
  if(NOT EXISTS "${WORK}/first/share/doc/hyperjit/${text}")
    message(FATAL_ERROR "the install has no share/doc/hyperjit/${text}")
  endif()
endforeach()
set(common -G Ninja -S "${SOURCE}/consumer" -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE=${PYTHON} -DHYPERJIT_LIBTORCH=${LIBTORCH})
set(ENV{HYPERJIT_CACHE_DIR} "${WORK}/cache")

# A build tree is no package, and says what to do.
execute_process(COMMAND "${CMAKE_COMMAND}" ${common} -B "${WORK}/tree" -DCONSUMER_TORCH=OFF "-Dhyperjit_DIR=${BUILD}"
                RESULT_VARIABLE status OUTPUT_QUIET ERROR_VARIABLE text)
if(status EQUAL 0 OR NOT text MATCHES "is[ \n]+a[ \n]+build[ \n]+tree;[ \n]+install[ \n]+it")
  message(FATAL_ERROR "a build tree was taken for a package (${status}): ${text}")
endif()

run("${CMAKE_COMMAND}" ${common} -B "${WORK}/core" -DCONSUMER_TORCH=OFF -Dhyperjit_ROOT=${WORK}/first)
run("${CMAKE_COMMAND}" --build "${WORK}/core")
run("${WORK}/core/consumer")

file(RENAME "${WORK}/first" "${WORK}/moved")
if(TORCH)
  run("${PYTHON}" "${SOURCE}/readme.py" "${README}" "${WORK}/readme.cpp")
  list(APPEND common "-DCONSUMER_README=${WORK}/readme.cpp")
endif()
run("${CMAKE_COMMAND}" ${common} -B "${WORK}/all" -DCONSUMER_TORCH=${TORCH} -Dhyperjit_ROOT=${WORK}/moved)
run("${CMAKE_COMMAND}" --build "${WORK}/all")
run("${WORK}/all/consumer")
if(TORCH)
  run("${WORK}/all/consumer-torch")
  run("${WORK}/all/consumer-readme")
endif()
run("${WORK}/moved/bin/hyperjit" recipes static)
file(REMOVE_RECURSE "${WORK}")
