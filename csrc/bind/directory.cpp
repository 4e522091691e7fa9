#include "directory.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "banks_binding.h"
#include "check.h"
#include "handles.h"
#include "module.h"

namespace py = pybind11;

namespace memcore {
namespace {

// Bytes that a write of one row touches, about.
constexpr int64_t kRowBytes = 16;

// The places of n rows, contiguous.
class PlacesArg {
 public:
  PlacesArg(const char* op, const py::array& array, int64_t n) : array_(op, "places", array) {
    MEMCORE_CHECK(array_.view.size == n, kShape, op, ": places has ", array_.view.size,
                  " entries, should have ", n);
  }
  const int64_t* data() const { return array_.view.data; }

 private:
  Int64Arg array_;
};

py::array_t<int64_t> create(Directory& directory, int64_t n) {
  MEMCORE_CHECK(n >= 0, kInput, "new: n is ", n, ", should be at least 0");
  py::array_t<int64_t> handles(n);
  int64_t* out = handles.mutable_data();
  const py::gil_scoped_release release;
  directory.create(n, out);
  return handles;
}

py::array_t<int64_t> add(Directory& directory, const py::array& handles,
                         std::optional<py::array> ids, const py::array& places) {
  const Int64Arg banks("add", "handles", handles);
  const int64_t n = places.size();
  const PlacesArg at("add", places, n);
  check_handles("add", banks, n);
  std::optional<Int64Arg> given;
  if (ids) {
    given.emplace("add", "ids", *ids);
    MEMCORE_CHECK(given->view.size == n, kShape, "add: ids has ", given->view.size,
                  " entries, should have ", n);
  }
  py::array_t<int64_t> added(n);
  int64_t* out = added.mutable_data();
  write(kRowBytes, n, [&](Interrupt& interrupt) {
    directory.add(banks.view, given ? &given->view : nullptr, n, at.data(), interrupt, out);
  });
  return added;
}

py::array_t<bool> update(Directory& directory, const py::array& handles, const py::array& ids,
                         std::optional<py::array> places, bool skip) {
  const Int64Arg banks("update", "handles", handles);
  const Int64Arg wanted("update", "ids", ids);
  const int64_t n = wanted.view.size;
  check_handles("update", banks, n);
  std::optional<PlacesArg> at;
  if (places) at.emplace("update", *places, n);
  py::array_t<bool> found(n);
  bool* out = found.mutable_data();
  write(kRowBytes, n, [&](Interrupt& interrupt) {
    directory.update(banks.view, wanted.view, n, at ? at->data() : nullptr, skip, interrupt, out);
  });
  return found;
}

py::array_t<bool> remove(Directory& directory, const py::array& handles, const py::array& ids,
                         bool skip) {
  const Int64Arg banks("delete", "handles", handles);
  const Int64Arg wanted("delete", "ids", ids);
  const int64_t n = wanted.view.size;
  check_handles("delete", banks, n);
  py::array_t<bool> found(n);
  bool* out = found.mutable_data();
  write(kRowBytes, n, [&](Interrupt& interrupt) {
    directory.remove(banks.view, wanted.view, n, skip, interrupt, out);
  });
  return found;
}

py::array_t<int64_t> find(Directory& directory, const char* op, const py::array& handles,
                          const py::array& ids) {
  const Int64Arg banks(op, "handles", handles);
  const Int64Arg wanted(op, "ids", ids);
  const int64_t n = wanted.view.size;
  check_handles(op, banks, n);
  py::array_t<int64_t> found(n);
  int64_t* out = found.mutable_data();
  interruptible([&](Interrupt& interrupt) {
    directory.places(banks.view, wanted.view, n, op, interrupt, out);
  });
  return found;
}

py::array_t<int64_t> places(Directory& directory, const py::array& handles, const py::array& ids) {
  return find(directory, "get", handles, ids);
}

py::array_t<bool> contains(Directory& directory, const py::array& handles, const py::array& ids) {
  const py::array_t<int64_t> found = find(directory, "contains", handles, ids);
  py::array_t<bool> is_there(found.size());
  for (int64_t i = 0; i < found.size(); ++i) is_there.mutable_data()[i] = found.data()[i] >= 0;
  return is_there;
}

}  // namespace

void register_directory(py::module_& m) {
  using py::arg;
  py::class_<Directory>(m, "Directory",
                        "The ids of banks whose rows lie elsewhere, each with a number, its place.")
      .def(py::init<>())
      .def("new", &create, arg("n"))
      .def("drop", &drop<Directory>, arg("handles"))
      .def("alive", &alive<Directory>, arg("handles"))
      .def("add", &add, arg("handles"), arg("ids"), arg("places"))
      .def("update", &update, arg("handles"), arg("ids"), arg("places"), arg("skip"))
      .def("delete", &remove, arg("handles"), arg("ids"), arg("skip"))
      .def("places", &places, arg("handles"), arg("ids"),
           "The place of each row, -1 where there is none.")
      .def("contains", &contains, arg("handles"), arg("ids"))
      .def("count", &count<Directory>, arg("handles"))
      .def("ids", &ids<Directory>, arg("handle"))
      .def("fork", &fork<Directory>, arg("handles"), arg("n"))
      .def("copy_from", &copy_from<Directory>, arg("handles"), arg("sources"))
      .def_property_readonly("nbytes", [](Directory& directory) {
        const py::gil_scoped_release release;
        return directory.nbytes();
      });
}

}  // namespace memcore
