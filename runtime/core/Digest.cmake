# Digest of a list of files by content and path relative to ROOT; run at build time, writes one C++ string constant.
# SPDX-License-Identifier: Apache-2.0
file(STRINGS "${FILES}" _files)
set(_lines "")
foreach(_file IN LISTS _files)
  file(SHA256 "${_file}" _hash)
  file(RELATIVE_PATH _name "${ROOT}" "${_file}")
  string(APPEND _lines "${_hash} ${_name}\n")
endforeach()
string(SHA256 _digest "${_lines}")
set(_text "static constexpr char ${NAME}Text[] = \"${_digest}\";\n")
file(WRITE "${OUTPUT}" "${_text}")
