#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <optional>

#include "arguments.h"
#include "metric.h"
#include "search.h"

namespace memcore {

// The plain call: float32 arrays of NumPy, k as an int, no options. It is told from others here,
// because Python takes as long to look at its arguments as a search of a hundred rows takes. What
// is not plain, wrong arguments included, is left to Python, which converts it or words the
// mistake.

// A plain array of `Item`, as it is.
template <class Item>
bool is_plain(pybind11::handle value) {
  namespace detail = pybind11::detail;
  return Py_IS_TYPE(value.ptr(), detail::npy_api::get().PyArray_Type_) &&
         detail::array_proxy(value.ptr())->descr == pybind11::dtype::of<Item>().ptr();
}

// float32 vectors (n, dim), or (dim,) for one.
inline std::optional<KeysView> plain_vectors(pybind11::handle value) {
  if (!is_plain<float>(value)) return std::nullopt;
  const auto* array = pybind11::detail::array_proxy(value.ptr());
  const auto* data = reinterpret_cast<const uint8_t*>(array->data);
  const auto* shape = array->dimensions;
  const auto* strides = array->strides;
  if (array->nd == 1) return KeysView{data, DType::kFloat32, 1, shape[0], 0, strides[0]};
  if (array->nd != 2) return std::nullopt;
  return KeysView{data, DType::kFloat32, shape[0], shape[1], strides[0], strides[1]};
}

// k, if its hits are so few that nobody need ask for the memory first.
inline std::optional<int64_t> plain_k(pybind11::handle value, int64_t n_queries) {
  constexpr int64_t kFewHits = int64_t{1} << 24;
  if (!PyLong_CheckExact(value.ptr())) return std::nullopt;
  int overflow = 0;
  const int64_t k = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
  if (overflow != 0 || k < 0 || k > kFewHits / std::max<int64_t>(n_queries, 1)) return std::nullopt;
  return k;
}

// The metric of a name; None is the dot product.
inline std::optional<Metric> plain_metric(pybind11::handle value) {
  if (value.is_none()) return Metric::kDot;
  if (!PyUnicode_Check(value.ptr())) return std::nullopt;
  const auto is = [&](const char* name) {
    return PyUnicode_CompareWithASCIIString(value.ptr(), name) == 0;
  };
  if (is("dot")) return Metric::kDot;
  if (is("cosine")) return Metric::kCosine;
  return is("l2") ? std::optional(Metric::kL2) : std::nullopt;
}

// memcore.Hits of scores and ids (n_queries, width), to be filled.
struct PlainHits {
  PlainHits(int64_t n_queries, int64_t width) {
    PYBIND11_CONSTINIT static pybind11::gil_safe_call_once_and_store<pybind11::object> type_of_hits;
    type_of_hits.call_once_and_store_result(
        [] { return pybind11::module_::import("memcore.hits").attr("Hits"); });
    auto* type = reinterpret_cast<PyTypeObject*>(type_of_hits.get_stored().ptr());
    hits = pybind11::reinterpret_steal<pybind11::object>(type->tp_alloc(type, 2));
    if (!hits) throw pybind11::error_already_set();
    const std::array<Py_intptr_t, 2> shape{n_queries, width};
    scores = static_cast<float*>(put(0, pybind11::dtype::of<float>(), shape));
    ids = static_cast<int64_t*>(put(1, pybind11::dtype::of<int64_t>(), shape));
  }
  // Where Python ends during the search, this thread is unwound without the GIL.
  ~PlainHits() {
    if (python_ends()) hits.release();
  }
  PlainHits(const PlainHits&) = delete;
  PlainHits& operator=(const PlainHits&) = delete;

  pybind11::object hits;
  float* scores;
  int64_t* ids;

 private:
  void* put(int i, pybind11::dtype dtype, const std::array<Py_intptr_t, 2>& shape) const {
    const auto& numpy = pybind11::detail::npy_api::get();
    PyObject* array = numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, dtype.release().ptr(), 2,
                                                  shape.data(), nullptr, nullptr, 0, nullptr);
    if (array == nullptr) throw pybind11::error_already_set();
    PyTuple_SET_ITEM(hits.ptr(), i, array);
    return pybind11::detail::array_proxy(array)->data;
  }
};

}  // namespace memcore
