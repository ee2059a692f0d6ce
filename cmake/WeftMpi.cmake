# WEFT_HAVE_MPI: whether weft runs over MPI, and the target MPI::MPI_CXX.
#
# Not under sanitizers: MPI libraries leak and race by their lights.

set(WEFT_HAVE_MPI OFF)
if(WEFT_MPI AND NOT WEFT_SANITIZE)
  set(MPI_CXX_SKIP_MPICXX ON)  # the C++ bindings that MPI has given up
  find_package(MPI COMPONENTS CXX QUIET)
  if(MPI_CXX_FOUND)
    set(WEFT_HAVE_MPI ON)
    message(STATUS "weft: MPI ${MPI_CXX_VERSION}, started by ${MPIEXEC_EXECUTABLE}")
  else()
    message(STATUS "weft: no MPI library (Debian: libopenmpi-dev and openmpi-bin); ranks are threads of one process")
  endif()
endif()
