# Targets of weft: one library and one test program per folder under weft/, linked to exactly the folders it stands on.

find_package(Threads REQUIRED)

# Flags that every object of weft is compiled with.
add_library(weft_flags INTERFACE)
target_include_directories(weft_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(weft_flags INTERFACE -Wall -Wextra -Wshadow -Werror=return-type)
if(CMAKE_UNITY_BUILD)
  # There the file that is compiled is not the one with the anonymous namespace, which gcc takes for a header then; and a
  # file sees the global names of others, which its local ones may hide.
  target_compile_options(weft_flags INTERFACE -Wno-subobject-linkage -Wno-shadow)
endif()
target_link_libraries(weft_flags INTERFACE Threads::Threads)
# Under sanitizers optimising takes half of the time to compile: what computes little does without.
set(optimisation $<IF:$<BOOL:$<TARGET_PROPERTY:WEFT_COMPUTES_LITTLE>>,-O0,-O1>)
if(WEFT_SANITIZE STREQUAL "address")
  target_compile_options(weft_flags INTERFACE ${optimisation} -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  if(WEFT_SANITIZE_SKIP)
    target_compile_options(weft_flags INTERFACE -fno-sanitize=${WEFT_SANITIZE_SKIP})
  endif()
  target_link_options(weft_flags INTERFACE -fsanitize=address,undefined)
elseif(WEFT_SANITIZE STREQUAL "thread")
  target_compile_options(weft_flags INTERFACE ${optimisation} -fsanitize=thread -fno-omit-frame-pointer)
  target_link_options(weft_flags INTERFACE -fsanitize=thread)
endif()

# weft_layer(NAME [DEPS layer...] [LINK target...]): the library weft_NAME from the sources of this folder (and its
# sub-folders), and, when tests are built, the program weft_NAME_test from its *_test.cc files.
function(weft_layer name)
  cmake_parse_arguments(ARG "" "" "DEPS;LINK" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cc)
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  list(TRANSFORM ARG_DEPS PREPEND weft_)
  if(sources)
    add_library(weft_${name} STATIC ${sources})
    target_link_libraries(weft_${name} PUBLIC weft_flags ${ARG_DEPS} ${ARG_LINK})
  else()
    add_library(weft_${name} INTERFACE)
    target_link_libraries(weft_${name} INTERFACE weft_flags ${ARG_DEPS} ${ARG_LINK})
  endif()
  if(WEFT_TESTS AND tests)
    weft_test(weft_${name}_test SOURCES ${tests} LINK weft_${name})
  endif()
endfunction()

# Tests spend their time in the libraries: what is compiled faster is theirs.
set(WEFT_TEST_FLAGS -O1)

# The longest programs: two halves of each, NAME.1 and NAME.2, run side by side, and begin first.
set(WEFT_HALVED_TESTS weft_kernels_test execute_methods_test execute_canonical_test)

# weft_test(NAME SOURCES file... LINK target...): a GoogleTest program, registered with ctest as one test or two halves.
function(weft_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  if(NOT TARGET weft_gtest_pch)
    # One precompiled gtest.h (90 MB) for all test programs; an executable, since they are compiled with -fPIE.
    file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/gtest_pch.cc CONTENT "int main() {}\n")
    add_executable(weft_gtest_pch EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/gtest_pch.cc)
    target_link_libraries(weft_gtest_pch PRIVATE weft_flags GTest::gtest)
    target_compile_options(weft_gtest_pch PRIVATE ${WEFT_PCH_FLAGS} ${WEFT_TEST_FLAGS})
    target_precompile_headers(weft_gtest_pch PRIVATE <gtest/gtest.h>)
    set_target_properties(weft_gtest_pch PROPERTIES WEFT_COMPUTES_LITTLE ON)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gtest_main)
  target_compile_options(${name} PRIVATE ${WEFT_PCH_FLAGS} ${WEFT_TEST_FLAGS})
  target_precompile_headers(${name} REUSE_FROM weft_gtest_pch)
  set_target_properties(${name} PROPERTIES WEFT_COMPUTES_LITTLE ON)
  if(NOT name IN_LIST WEFT_HALVED_TESTS)
    add_test(NAME ${name} COMMAND ${name})
    return()
  endif()
  foreach(half 1 2)
    math(EXPR index "${half} - 1")
    add_test(NAME ${name}.${half} COMMAND ${name})
    set_tests_properties(${name}.${half} PROPERTIES COST 50 ENVIRONMENT "GTEST_TOTAL_SHARDS=2;GTEST_SHARD_INDEX=${index}")
  endforeach()
endfunction()
