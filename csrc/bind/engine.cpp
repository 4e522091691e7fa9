#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "dispatch.h"
#include "float_env.h"
#include "module.h"
#include "threads.h"

namespace py = pybind11;

namespace memcore {

void register_engine(py::module_& m) {
  m.def("isas", &isas, "The instruction sets that run here, slowest first.");
  m.def("isa", &isa, "The instruction set in use.");
  m.def("set_isa", &set_isa, py::arg("name"), "Use another instruction set.");
  m.def("threads", &n_threads, "How many threads a call may use.");
  m.def("set_threads", &set_n_threads, py::arg("n"), "Use n threads; 0 is all processors.");
  m.def("float_flags", &FloatEnv::read, "The floating-point control register of this thread.");
  m.def("set_float_flags", &FloatEnv::write, py::arg("flags"),
        "Set the floating-point control register of this thread: for tests.");
}

}  // namespace memcore
