#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <string>

#include "check.h"
#include "dtype.h"
#include "metric.h"
#include "search.h"
#include "threads.h"

namespace memcore {

// Python above has worded every mistake a caller can make; what is checked here guards memory.

inline DType vector_dtype(const char* op, const char* name, const pybind11::array& array) {
  // NumPy's numbers of the types: they have not changed in twenty years.
  switch (
      pybind11::detail::array_descriptor_proxy(pybind11::detail::array_proxy(array.ptr())->descr)
          ->type_num) {
    case 11: return DType::kFloat32;
    case 23: return DType::kFloat16;
    case 4: return DType::kBFloat16;
    case 1: return DType::kInt8;
    default:
      fail(ErrorKind::kDtype, op, ": ", name, " has dtype ",
           std::string(pybind11::str(array.dtype())),
           ", should be float32, float16, bfloat16 (as uint16) or int8");
  }
}

inline Metric parse_metric(const std::string& name) {
  if (name == "dot") return Metric::kDot;
  if (name == "cosine") return Metric::kCosine;
  MEMCORE_CHECK(name == "l2", kInput, "search: metric is ", name, ", should be dot, cosine or l2");
  return Metric::kL2;
}

// A plain array of n_items items of `Item`, contiguous and aligned. Throws otherwise.
template <class Item>
Item* plain(const char* op, const char* name, const pybind11::array& array, int64_t n_items) {
  constexpr int kPlain =
      int{pybind11::detail::npy_api::NPY_ARRAY_ALIGNED_} | int{pybind11::array::c_style};
  MEMCORE_CHECK(array.itemsize() == static_cast<int64_t>(sizeof(Item)) && array.size() == n_items &&
                    (array.flags() & kPlain) == kPlain,
                kShape, op, ": ", name, " is not a plain array of ", n_items, " items of ",
                sizeof(Item), " bytes");
  return static_cast<Item*>(const_cast<void*>(array.data()));
}

template <class Item>
Item* plain_output(const char* op, const char* name, const pybind11::array& array,
                   int64_t n_items) {
  MEMCORE_CHECK(array.writeable(), kInput, op, ": ", name, " is read-only, should be writeable");
  return plain<Item>(op, name, array, n_items);
}

// k as an int, or as an int64 array of one per query; none may pass `width`.
class CountsArgument {
 public:
  CountsArgument(const char* op, const pybind11::object& k, int64_t n_queries, int64_t width) {
    if (PyLong_Check(k.ptr())) {
      one_ = k.cast<int64_t>();
      view_ = {&one_, 0};
    } else {
      array_ = pybind11::cast<pybind11::array>(k);
      view_ = {plain<int64_t>(op, "k", array_, n_queries), 1};
    }
    for (int64_t q = 0; q < (view_.stride == 0 ? 1 : n_queries); ++q) {
      MEMCORE_CHECK(view_[q] >= 0 && view_[q] <= width, kInput, op, ": k is ", view_[q],
                    ", should be 0 to ", width);
    }
  }
  CountsArgument(const CountsArgument&) = delete;
  CountsArgument& operator=(const CountsArgument&) = delete;
  CountsView view() const { return view_; }

 private:
  int64_t one_ = 0;
  pybind11::array array_;
  CountsView view_{};
};

inline bool python_ends() {
#if PY_VERSION_HEX >= 0x030d0000
  return Py_IsFinalizing();
#else
  return _Py_IsFinalizing();
#endif
}

// Asks Python whether Ctrl-C was pressed. Leaves the exception set for `interruptible`.
inline bool python_wants_to_stop() {
  // A thread that asks for the GIL of a Python that ends is ended there, in the middle of the
  // search.
  if (python_ends()) return true;
  const pybind11::gil_scoped_acquire gil;
  // From 3.12 on this would also collect garbage, whose destructors may want the lock that the
  // search holds.
  const int collects = PyGC_Disable();
  const bool is_stopped = PyErr_CheckSignals() != 0;
  if (collects != 0) PyGC_Enable();
  return is_stopped;
}

// Runs `work(interrupt)` without the GIL; a Ctrl-C on the way is raised as KeyboardInterrupt.
template <class Work>
void interruptible(Work&& work) {
  Interrupt interrupt(python_wants_to_stop);
  bool is_stopped = false;
  std::exception_ptr error;
  PyThreadState* const state = PyEval_SaveThread();
  try {
    work(interrupt);
  } catch (const Stopped&) {
    is_stopped = true;
  } catch (...) {
    error = std::current_exception();
  }
  // Not in a destructor: where Python ends meanwhile, this ends the thread by unwinding it.
  PyEval_RestoreThread(state);
  if (is_stopped) throw pybind11::error_already_set();
  if (error) std::rethrow_exception(error);
}

}  // namespace memcore
