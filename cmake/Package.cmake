# What `find_package(hyperjit)` finds after an install. The torch part is an export set of its own: whoever wants the core
# alone needs no LibTorch.
# SPDX-License-Identifier: Apache-2.0
include(CMakePackageConfigHelpers)
set(_folder "${CMAKE_INSTALL_LIBDIR}/cmake/hyperjit")
install(EXPORT hyperjitTargets NAMESPACE hyperjit:: DESTINATION "${_folder}")
if(TARGET hyperjit_torch)
  install(EXPORT hyperjitTorchTargets NAMESPACE hyperjit:: DESTINATION "${_folder}")
  install(FILES "${PROJECT_SOURCE_DIR}/cmake/FindLibTorchLite.cmake" DESTINATION "${_folder}")
endif()
configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/hyperjitConfig.cmake.in" "${PROJECT_BINARY_DIR}/hyperjitConfig.cmake"
                              INSTALL_DESTINATION "${_folder}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/hyperjitConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/hyperjitConfig.cmake" "${PROJECT_BINARY_DIR}/hyperjitConfigVersion.cmake"
        DESTINATION "${_folder}")

# Licences of what is linked into the libraries, as Debian's packages carry them, beside the project's own. scripts/bundle
# takes the same folder.
set(_licenses "${PROJECT_BINARY_DIR}/share/doc/hyperjit")
file(REMOVE_RECURSE "${_licenses}")
configure_file("${PROJECT_SOURCE_DIR}/LICENSE" "${_licenses}/LICENSE" COPYONLY)
foreach(package libsodium-dev libzstd-dev libxxhash-dev libfmt-dev nlohmann-json3-dev libcli11-dev llvm-22-dev)
  if(EXISTS "/usr/share/doc/${package}/copyright")
    configure_file("/usr/share/doc/${package}/copyright" "${_licenses}/${package}.copyright" COPYONLY)
  else()
    message(WARNING "the licence of ${package} is not at /usr/share/doc/${package}/copyright: an install lacks it")
  endif()
endforeach()
install(DIRECTORY "${_licenses}/" DESTINATION "${CMAKE_INSTALL_DOCDIR}")
