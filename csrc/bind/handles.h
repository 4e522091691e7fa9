#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "arguments.h"
#include "batch.h"
#include "check.h"
#include "watched.h"

namespace memcore {

// An int64 array of one axis that can be read as it is, or a copy of it.
class Int64Arg {
 public:
  Int64Arg(const char* op, const char* name, const pybind11::array& array) : array_(array) {
    const pybind11::dtype dtype = array.dtype();
    MEMCORE_CHECK(dtype.kind() == 'i' && dtype.itemsize() == 8, kDtype, op, ": ", name,
                  " has dtype ", std::string(pybind11::str(dtype)), ", should be int64");
    MEMCORE_CHECK(array.ndim() == 1, kShape, op, ": ", name, " has ", array.ndim(),
                  " axes, should have 1");
    constexpr int kPlain = pybind11::detail::npy_api::NPY_ARRAY_ALIGNED_ |
                           pybind11::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_;
    if ((array.flags() & kPlain) != kPlain)
      array_ = pybind11::array_t<int64_t, pybind11::array::c_style>::ensure(array);
    view = {static_cast<const int64_t*>(array_.data()), array_.size(), array_.size() == 1 ? 0 : 1};
  }
  Int64View view;

 private:
  pybind11::array array_;
};

inline void check_handles(const char* op, const Int64Arg& handles, int64_t n) {
  MEMCORE_CHECK(handles.view.size == n || handles.view.size == 1, kShape, op, ": handles has ",
                handles.view.size, " entries, should have 1 or ", n);
}

template <typename Item>
Item* output(const char* op, const char* name, pybind11::array& array, int64_t n_items) {
  MEMCORE_CHECK(array.itemsize() == static_cast<int64_t>(sizeof(Item)) && array.size() == n_items &&
                    (array.flags() & pybind11::array::c_style) && array.writeable(),
                kShape, op, ": ", name, " is of another size or not contiguous, should take ",
                n_items, " items");
  return static_cast<Item*>(array.mutable_data());
}

inline pybind11::array_t<int64_t> as_array(const std::vector<int64_t>& values) {
  return pybind11::array_t<int64_t>(static_cast<pybind11::ssize_t>(values.size()), values.data());
}

// Runs a write of n rows of some bytes; one that takes more than some 10 ms answers Ctrl-C.
template <class Work>
void write(int64_t row_bytes, int64_t n, const Work& work) {
  constexpr int64_t kManyRows = 1 << 15;
  constexpr int64_t kManyBytes = int64_t{1} << 25;
  if (n < kManyRows && n * row_bytes < kManyBytes) {
    const pybind11::gil_scoped_release release;
    Interrupt never(nullptr);
    return work(never);
  }
  watched(work);
}

}  // namespace memcore
