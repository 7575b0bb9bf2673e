# Writes templates/ as one C++ table: -DROOT=templates -DFILES=list -DOUTPUT=file.
# SPDX-License-Identifier: Apache-2.0
file(STRINGS "${FILES}" _files)
set(_arrays "")
set(_rows "")
set(_index 0)
foreach(_file IN LISTS _files)
  if(NOT _file)
    continue()
  endif()
  file(RELATIVE_PATH _name "${ROOT}" "${_file}")
  file(READ "${_file}" _bytes HEX)
  string(REGEX REPLACE "(..)" "0x\\1," _bytes "${_bytes}")
  string(APPEND _arrays "static const unsigned char text${_index}[] = {${_bytes}0};\n")
  string(APPEND _rows "    {\"${_name}\", reinterpret_cast<const char *>(text${_index})},\n")
  math(EXPR _index "${_index} + 1")
endforeach()
file(WRITE "${OUTPUT}" "// Generated from templates/.\n#include \"CudaBackend.h\"\n${_arrays}"
     "const hyperjit::cuda::TemplateHeader hyperjit::cuda::templateHeaders[] = {\n${_rows}    {nullptr, nullptr}};\n")
