# libfuse: from .deps/ (tools/setup builds it there where the system's is older than 3.17), else the
# system's. Target: PkgConfig::FUSE3, with the API version and CLONEFS_HAVE_PASSTHROUGH as it admits.
set(private_fuse ${CMAKE_SOURCE_DIR}/.deps/fuse3/lib/pkgconfig)
if(EXISTS ${private_fuse}/fuse3.pc AND NOT CLONEFS_SYSTEM_FUSE)
  set(saved_path "$ENV{PKG_CONFIG_PATH}")
  set(ENV{PKG_CONFIG_PATH} "${private_fuse}:${saved_path}")
endif()
unset(__pkg_config_checked_FUSE3 CACHE)  # look again: .deps/ may be newer than this build folder
unset(pkgcfg_lib_FUSE3_fuse3 CACHE)
pkg_check_modules(FUSE3 REQUIRED IMPORTED_TARGET fuse3>=3.14)
if(DEFINED saved_path)
  set(ENV{PKG_CONFIG_PATH} "${saved_path}")
endif()

if(FUSE3_VERSION VERSION_GREATER_EQUAL 3.17)
  message(STATUS "libfuse ${FUSE3_VERSION}: passthrough where the kernel has it")
  set(fuse_definitions FUSE_USE_VERSION=317 CLONEFS_HAVE_PASSTHROUGH=1)
else()
  message(STATUS "libfuse ${FUSE3_VERSION}: no passthrough (tools/setup brings 3.17)")
  set(fuse_definitions FUSE_USE_VERSION=314)
endif()
# The .pc file names include/fuse3 only; <fuse3/...> must find the same version, not the system's.
set_property(TARGET PkgConfig::FUSE3 APPEND PROPERTY
  INTERFACE_INCLUDE_DIRECTORIES ${FUSE3_INCLUDEDIR})
set_property(TARGET PkgConfig::FUSE3 APPEND PROPERTY
  INTERFACE_COMPILE_DEFINITIONS ${fuse_definitions})
