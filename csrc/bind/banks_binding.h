// What banks offer by their handles, the same for `Pages` and for `Directory`.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <vector>

#include "check.h"
#include "handles.h"

namespace memcore {

template <class Store>
void drop(Store& store, const pybind11::array& handles) {
  const Int64Arg arg("drop", "handles", handles);
  const pybind11::gil_scoped_release release;
  store.drop(arg.view);
}

template <class Store>
pybind11::array_t<bool> alive(Store& store, const pybind11::array& handles) {
  const Int64Arg arg("alive", "handles", handles);
  pybind11::array_t<bool> found(arg.view.size);
  bool* out = found.mutable_data();
  const pybind11::gil_scoped_release release;
  store.alive(arg.view, out);
  return found;
}

template <class Store>
pybind11::array_t<int64_t> count(Store& store, const pybind11::array& handles) {
  const Int64Arg arg("count", "handles", handles);
  pybind11::array_t<int64_t> counts(arg.view.size);
  int64_t* out = counts.mutable_data();
  const pybind11::gil_scoped_release release;
  store.count(arg.view, out);
  return counts;
}

template <class Store>
pybind11::array_t<int64_t> ids(Store& store, int64_t handle) {
  std::vector<int64_t> found;
  {
    const pybind11::gil_scoped_release release;
    found = store.ids(handle);
  }
  return as_array(found);
}

template <class Store>
pybind11::array_t<int64_t> fork(Store& store, const pybind11::array& handles, int64_t n) {
  MEMCORE_CHECK(n >= 0, kInput, "fork: n is ", n, ", should be at least 0");
  const Int64Arg parents("fork", "handles", handles);
  pybind11::array_t<int64_t> forks(
      {static_cast<pybind11::ssize_t>(parents.view.size), static_cast<pybind11::ssize_t>(n)});
  int64_t* out = forks.mutable_data();
  const pybind11::gil_scoped_release release;
  store.fork(parents.view, n, out);
  return forks;
}

template <class Store>
void copy_from(Store& store, const pybind11::array& handles, const pybind11::array& sources) {
  const Int64Arg targets("rollback", "handles", handles);
  const Int64Arg origins("rollback", "sources", sources);
  MEMCORE_CHECK(origins.view.size == targets.view.size, kShape, "rollback: sources has ",
                origins.view.size, " entries, should have ", targets.view.size);
  const pybind11::gil_scoped_release release;
  store.copy_from(targets.view, origins.view);
}

}  // namespace memcore
