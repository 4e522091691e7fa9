#include <pybind11/pybind11.h>

#include "check.h"
#include "module.h"

namespace py = pybind11;

namespace memcore {
namespace {

const char* python_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kShape: return "ShapeError";
    case ErrorKind::kDtype: return "DtypeError";
    case ErrorKind::kInput: return "InputError";
    case ErrorKind::kNotFound: return "NotFoundError";
    case ErrorKind::kBackend: return "BackendError";
  }
  return "InputError";
}

}  // namespace
}  // namespace memcore

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled engine of memcore. Private: call it through memcore.";
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const memcore::Error& e) {
      py::set_error(py::module_::import("memcore.errors").attr(memcore::python_name(e.kind)),
                    e.what());
    }
  });
  memcore::register_engine(m);
  memcore::register_search(m);
  memcore::register_attend(m);
  memcore::register_codebook(m);
  memcore::register_pages(m);
  memcore::register_directory(m);
  memcore::register_buckets(m);
  memcore::register_lsh(m);
  memcore::register_text(m);
  memcore::register_probe(m);
}
