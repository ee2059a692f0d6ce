# The target weft_libtorch: libtorch from the wheel installed in the Python that CMake finds.
#
# Written by hand instead of find_package(Torch): a CUDA wheel's package stops on machines without a CUDA toolkit,
# and weft needs only its headers and libraries.

if(NOT WEFT_PYTHON)
  if(SKBUILD)  # pip builds a wheel: for the Python that runs it
    set(WEFT_PYTHON ${Python_EXECUTABLE})
  elseif(EXISTS ${CMAKE_SOURCE_DIR}/.venv/bin/python)
    set(WEFT_PYTHON ${CMAKE_SOURCE_DIR}/.venv/bin/python)
  else()
    set(WEFT_PYTHON python3)
  endif()
endif()
set(find_torch "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])")
execute_process(COMMAND ${WEFT_PYTHON} -c "${find_torch}"
  OUTPUT_VARIABLE WEFT_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE result)
if(NOT result EQUAL 0 AND SKBUILD)
  # pip isolates a build by PYTHONPATH; without it (-E) the same Python sees what is installed.
  execute_process(COMMAND ${WEFT_PYTHON} -E -c "${find_torch}"
    OUTPUT_VARIABLE WEFT_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE result)
endif()
if(NOT result EQUAL 0)
  if(SKBUILD)
    message(FATAL_ERROR "weft: ${WEFT_PYTHON} has no torch, and the operators are compiled for the torch that is installed: "
      "install torch first, then 'pip install --no-build-isolation .' (with scikit-build-core and ninja installed)")
  endif()
  message(FATAL_ERROR "weft: ${WEFT_PYTHON} has no torch; run 'make setup', or configure with -DWEFT_TORCH=OFF")
endif()
message(STATUS "weft: torch in ${WEFT_TORCH_DIR}")

add_library(weft_libtorch INTERFACE)
target_include_directories(weft_libtorch SYSTEM INTERFACE
  ${WEFT_TORCH_DIR}/include ${WEFT_TORCH_DIR}/include/torch/csrc/api/include)
target_compile_definitions(weft_libtorch INTERFACE USE_DISTRIBUTED USE_C10D_GLOO)
# libtorch.so itself stays out: it holds nothing, and a CUDA wheel's drags in libtorch_cuda.so and all of CUDA.
# - Kernels register themselves by static initialisers: without --no-as-needed the linker would drop libtorch_cpu.so.
# - A CUDA wheel's libtorch_cpu.so needs libcudart.so and others, which its own RUNPATH finds at run time but which may
#   be out of the linker's sight: symbols that only a shared library misses are none of our concern.
target_link_options(weft_libtorch INTERFACE -Wl,-rpath,${WEFT_TORCH_DIR}/lib -Wl,--allow-shlib-undefined)
target_link_libraries(weft_libtorch INTERFACE
  -Wl,--no-as-needed ${WEFT_TORCH_DIR}/lib/libtorch_cpu.so -Wl,--as-needed ${WEFT_TORCH_DIR}/lib/libc10.so)
