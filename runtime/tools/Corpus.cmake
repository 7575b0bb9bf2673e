# Joins the files listed in FILES into OUTPUT.
# SPDX-License-Identifier: Apache-2.0
file(STRINGS "${FILES}" _files)
get_filename_component(_folder "${OUTPUT}" DIRECTORY)
file(MAKE_DIRECTORY "${_folder}")
# `cat` copies bytes as they are; CMake's own file(READ) would lose semicolons and brackets.
file(WRITE "${OUTPUT}.new" "")
set(_existing)
foreach(_file IN LISTS _files)
  if(EXISTS "${_file}")
    list(APPEND _existing "${_file}")
  endif()
endforeach()
execute_process(COMMAND cat ${_existing} OUTPUT_FILE "${OUTPUT}.new" COMMAND_ERROR_IS_FATAL ANY)
file(RENAME "${OUTPUT}.new" "${OUTPUT}")
