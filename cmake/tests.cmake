# How tests are declared. The label of a test is its folder.
include(GoogleTest)

set(clonefs_test_environment
  "CLONEFS_BIN=${CMAKE_BINARY_DIR}/clonefs"
  "CLONEFS_SOURCE_DIR=${CMAKE_SOURCE_DIR}"
  "UBSAN_OPTIONS=print_stacktrace=1"
  "TSAN_OPTIONS=second_deadlock_stack=1")

# clonefs_gtest(NAME LABEL TIMEOUT SOURCES ... LIBRARIES ...)
function(clonefs_gtest name label timeout)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBRARIES" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  # All unit tests of a layer, for builds that need no more: tools/test --target tests_engine.
  if(NOT TARGET tests_${label})
    add_custom_target(tests_${label})
  endif()
  add_dependencies(tests_${label} ${name})
  target_link_libraries(${name} PRIVATE ${arg_LIBRARIES} GTest::gtest GTest::gtest_main)
  gtest_discover_tests(${name}
    TEST_PREFIX "${label}/" DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
    PROPERTIES LABELS ${label} TIMEOUT ${timeout} ENVIRONMENT "${clonefs_test_environment}")
endfunction()

# clonefs_unit_tests(FOLDER LIBRARIES...): each tests/FOLDER/*_test.cc is one executable; the other
# *.cc of the folder are linked to all of them.
function(clonefs_unit_tests folder)
  set(dir ${CMAKE_CURRENT_SOURCE_DIR}/${folder})
  file(GLOB tests CONFIGURE_DEPENDS ${dir}/*_test.cc)
  file(GLOB support CONFIGURE_DEPENDS ${dir}/*.cc)
  list(FILTER support EXCLUDE REGEX "_test\\.cc$")
  set(libraries ${ARGN})
  if(support)
    add_library(${folder}_test_support STATIC ${support})
    target_link_libraries(${folder}_test_support PUBLIC ${ARGN} GTest::gtest)
    list(PREPEND libraries ${folder}_test_support)
  endif()
  foreach(source IN LISTS tests)
    get_filename_component(name ${source} NAME_WE)
    clonefs_gtest(${folder}_${name} ${folder} 300 SOURCES ${source} LIBRARIES ${libraries})
  endforeach()
endfunction()

# clonefs_script_tests(FOLDER): each tests/FOLDER/*_test.py is one test, run with python3.
function(clonefs_script_tests folder)
  file(GLOB tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*_test.py)
  foreach(script IN LISTS tests)
    get_filename_component(name ${script} NAME_WE)
    clonefs_script_test(${folder}/${name} ${folder} ${script})
  endforeach()
endfunction()

function(clonefs_script_test name label script)
  # The long form has more time, which ctest can't be told when it runs.
  add_test(NAME ${name} COMMAND sh -c
    "exec timeout -k 10 $([ \"$CLONEFS_LONG\" = 1 ] && echo 3200 || echo 300) python3 \"$0\"" ${script})
  set_tests_properties(${name} PROPERTIES
    LABELS ${label} TIMEOUT 3300 SKIP_RETURN_CODE 77 ENVIRONMENT "${clonefs_test_environment}")
endfunction()
