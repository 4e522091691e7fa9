#include "text.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <vector>

#include "check.h"
#include "float_env.h"
#include "module.h"

namespace py = pybind11;

namespace memcore {
namespace {

using Vectors = py::array_t<float, py::array::c_style>;

// Signals are looked at after every so many characters: a few milliseconds.
constexpr int64_t kCharactersPerCheck = int64_t{1} << 18;

std::vector<Text> views(const py::tuple& texts) {
  std::vector<Text> result;
  result.reserve(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    PyObject* text = PyTuple_GET_ITEM(texts.ptr(), static_cast<Py_ssize_t>(i));
    MEMCORE_CHECK(PyUnicode_Check(text), kDtype, "embed: texts[", i, "] is ",
                  Py_TYPE(text)->tp_name, ", should be str");
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(text) != 0) throw py::error_already_set();
#endif
    int64_t length = PyUnicode_GET_LENGTH(text);
    MEMCORE_CHECK(length <= kMaxTextLength, kInput, "embed: texts[", i, "] has ", length,
                  " characters, should be at most ", kMaxTextLength);
    result.push_back({PyUnicode_DATA(text), length, static_cast<int>(PyUnicode_KIND(text))});
  }
  return result;
}

// The tuple and its strings cannot change, so their characters are read without the GIL.
void hash_texts(const py::tuple& texts, Vectors& vectors) {
  auto n_texts = static_cast<py::ssize_t>(texts.size());
  MEMCORE_CHECK(vectors.ndim() == 2 && vectors.shape(0) == n_texts && vectors.shape(1) > 0, kShape,
                "embed: vectors has another shape, should be (", n_texts, ", dim)");
  std::vector<Text> inputs = views(texts);
  int64_t dim = vectors.shape(1);
  std::vector<int32_t> counts(static_cast<size_t>(dim));
  float* output = vectors.mutable_data();
  for (size_t i = 0; i < inputs.size();) {
    {
      py::gil_scoped_release release;
      FloatEnv float_env;
      for (int64_t n_read = 0; i < inputs.size() && n_read < kCharactersPerCheck; ++i) {
        hash_text(inputs[i], dim, counts.data(), output + static_cast<int64_t>(i) * dim);
        n_read += inputs[i].length + dim;
      }
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

}  // namespace

void register_text(py::module_& m) {
  m.def("hash_texts", &hash_texts, py::arg("texts"), py::arg("vectors").noconvert(),
        "Fills vectors (n, dim) float32 with the hashed features of n folded texts.");
}

}  // namespace memcore
