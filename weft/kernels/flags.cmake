# Each path's file gets exactly the instructions it may use; nothing is ever compiled for "the machine at hand".
# Included by weft/CMakeLists.txt, which creates the library: source properties count only in that folder's scope.
set(speed -O2)
if(WEFT_SANITIZE)
  set(speed -O1)  # compiles in less than half the time
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  # 512-bit registers are really wanted; the warnings are false ones inside gcc 12's own AVX-512 headers.
  set_source_files_properties(kernels/path_avx2.cc PROPERTIES COMPILE_OPTIONS "${speed};-mavx2;-mfma;-mf16c;-fno-math-errno")
  set(avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512 -fno-math-errno
    -Wno-uninitialized -Wno-maybe-uninitialized)
  set_source_files_properties(kernels/path_avx512.cc PROPERTIES COMPILE_OPTIONS "${speed};${avx512}")
  set(avx512_bf16 ${avx512} -mavx512bf16 -Wno-unused-function)
  set_source_files_properties(kernels/matrix/path_dot.cc PROPERTIES COMPILE_OPTIONS "${speed};${avx512_bf16}")
  set_source_files_properties(kernels/matrix/path_amx.cc PROPERTIES COMPILE_OPTIONS
    "${speed};${avx512_bf16};-mamx-tile;-mamx-bf16")
  # -Wno-psabi: vectors of 64 bytes are passed in memory here, which concerns nobody else.
  set_source_files_properties(kernels/matrix/path_emulated.cc PROPERTIES COMPILE_OPTIONS
    "${speed};-mavx2;-mfma;-mf16c;-fno-math-errno;-Wno-psabi")
endif()
set_source_files_properties(kernels/path_portable.cc PROPERTIES COMPILE_OPTIONS "${speed};-fno-math-errno")
# Sums of gates' gradients are loops over rows of doubles.
set_source_files_properties(kernels/linear/decays.cc PROPERTIES COMPILE_OPTIONS -O3)
