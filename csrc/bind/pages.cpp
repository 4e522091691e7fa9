#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "banks_binding.h"
#include "check.h"
#include "handles.h"
#include "module.h"
#include "pages_binding.h"

namespace py = pybind11;

namespace memcore {
namespace {

// Arithmetic on page sizes stays far from 2^63 up to this dim.
constexpr int64_t kMaxDim = int64_t{1} << 24;

std::optional<VectorsView> vectors_view(const char* op, const std::optional<py::array>& array) {
  if (!array) return std::nullopt;
  const py::dtype dtype = array->dtype();
  const bool is_float = dtype.kind() == 'f';
  const int64_t item = dtype.itemsize();
  MEMCORE_CHECK((is_float && (item == 4 || item == 2)) || (dtype.kind() == 'u' && item == 2),
                kDtype, op, ": vectors has dtype ", std::string(py::str(dtype)),
                ", should be float32, float16 or bfloat16 as uint16");
  MEMCORE_CHECK(array->ndim() == 2, kShape, op, ": vectors has ", array->ndim(),
                " axes, should have 2");
  const DType kind = item == 4 ? DType::kFloat32 : is_float ? DType::kFloat16 : DType::kBFloat16;
  return VectorsView{static_cast<const uint8_t*>(array->data()),
                     kind,
                     array->shape(0),
                     array->shape(1),
                     array->strides(0),
                     array->strides(1)};
}

// The cells of a call: an int64 array or None for each column.
struct CellsArg {
  CellsArg(const char* op, const std::vector<std::optional<py::array>>& columns) {
    arrays.reserve(columns.size());
    for (const auto& column : columns) {
      views.push_back(column ? arrays.emplace_back(op, "columns", *column).view : Int64View{});
      // Where n is 1 the array must not be taken for one that is repeated.
      if (column) views.back().stride = 1;
    }
  }
  std::vector<Int64Arg> arrays;
  CellsView views;
};

DType parse_dtype(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "float16") return DType::kFloat16;
  if (name == "bfloat16") return DType::kBFloat16;
  fail(ErrorKind::kDtype, "Pages: dtype is \"", name, "\", should be float32, float16 or bfloat16");
}

std::unique_ptr<Pages> make(std::optional<int64_t> dim, const std::string& dtype,
                            const std::string& metric, const std::vector<std::string>& columns) {
  MEMCORE_CHECK(!dim || (*dim >= 1 && *dim <= kMaxDim), kShape, "Pages: dim is ", *dim,
                ", should be 1 to ", kMaxDim);
  std::vector<ColumnKind> kinds;
  for (const std::string& column : columns) kinds.push_back(column_kind(column));
  return std::make_unique<Pages>(dim.value_or(0), parse_dtype(dtype), parse_metric(metric),
                                 std::move(kinds));
}

py::array_t<int64_t> create(Pages& pages, int64_t n, bool are_lists) {
  MEMCORE_CHECK(n >= 0, kInput, "new: n is ", n, ", should be at least 0");
  py::array_t<int64_t> handles(n);
  int64_t* out = handles.mutable_data();
  const py::gil_scoped_release release;
  pages.create(n, out, are_lists);
  return handles;
}

void check(Pages& pages, const std::string& op, const std::optional<py::array>& vectors,
           const std::vector<std::optional<py::array>>& columns) {
  const std::optional<VectorsView> rows = vectors_view(op.c_str(), vectors);
  const CellsArg cells(op.c_str(), columns);
  const int64_t n = rows ? rows->n_rows : cells.arrays.empty() ? 0 : cells.arrays[0].view.size;
  write(pages.slab().row_bytes(), n, [&](Interrupt& interrupt) {
    pages.check(op.c_str(), n, rows ? &*rows : nullptr, cells.views, interrupt);
  });
}

py::array_t<int64_t> add(Pages& pages, const py::array& handles,
                         const std::optional<py::array>& ids,
                         const std::optional<py::array>& vectors,
                         const std::vector<std::optional<py::array>>& columns) {
  const Int64Arg banks("add", "handles", handles);
  const std::optional<VectorsView> rows = vectors_view("add", vectors);
  const CellsArg cells("add", columns);
  std::optional<Int64Arg> chosen;
  if (ids) chosen.emplace("add", "ids", *ids);
  const int64_t n = rows                   ? rows->n_rows
                    : chosen               ? chosen->view.size
                    : cells.arrays.empty() ? banks.view.size
                                           : cells.arrays[0].view.size;
  check_handles("add", banks, n);
  MEMCORE_CHECK(!chosen || chosen->view.size == n, kShape, "add: ids has ", chosen->view.size,
                " entries, should have ", n);
  py::array_t<int64_t> added(n);
  int64_t* out = added.mutable_data();
  write(pages.slab().row_bytes(), n, [&](Interrupt& interrupt) {
    pages.add(banks.view, chosen ? &chosen->view : nullptr, n, rows ? &*rows : nullptr, cells.views,
              interrupt, out);
  });
  return added;
}

py::array_t<bool> update(Pages& pages, const py::array& handles, const py::array& ids,
                         const std::optional<py::array>& vectors,
                         const std::vector<std::optional<py::array>>& columns, bool skip) {
  const Int64Arg banks("update", "handles", handles);
  const Int64Arg wanted("update", "ids", ids);
  const std::optional<VectorsView> rows = vectors_view("update", vectors);
  const CellsArg cells("update", columns);
  const int64_t n = wanted.view.size;
  check_handles("update", banks, n);
  py::array_t<bool> found(n);
  bool* out = found.mutable_data();
  write(pages.slab().row_bytes(), n, [&](Interrupt& interrupt) {
    pages.update(banks.view, wanted.view, n, rows ? &*rows : nullptr, cells.views, skip, interrupt,
                 out);
  });
  return found;
}

py::array_t<bool> remove(Pages& pages, const py::array& handles, const py::array& ids, bool skip) {
  const Int64Arg banks("delete", "handles", handles);
  const Int64Arg wanted("delete", "ids", ids);
  check_handles("delete", banks, wanted.view.size);
  const int64_t n = wanted.view.size;
  py::array_t<bool> found(n);
  bool* out = found.mutable_data();
  write(pages.slab().row_bytes(), n, [&](Interrupt& interrupt) {
    pages.remove(banks.view, wanted.view, n, skip, interrupt, out);
  });
  return found;
}

py::array_t<bool> get(Pages& pages, const py::array& handles, const py::array& ids, bool skip,
                      std::optional<py::array> vectors,
                      std::vector<std::optional<py::array>> columns) {
  const Int64Arg banks("get", "handles", handles);
  const Int64Arg wanted("get", "ids", ids);
  const int64_t n = wanted.view.size;
  const Slab& slab = pages.slab();
  check_handles("get", banks, n);
  MEMCORE_CHECK(static_cast<int>(columns.size()) == slab.n_columns(), kShape, "get: columns has ",
                columns.size(), " arrays, should have ", slab.n_columns());
  uint8_t* vectors_out = nullptr;
  if (vectors) {
    MEMCORE_CHECK(slab.dim() > 0, kShape, "get: vectors is an array, should be None");
    vectors_out = item_bytes(slab.dtype()) == 4 ? reinterpret_cast<uint8_t*>(output<uint32_t>(
                                                      "get", "vectors", *vectors, n * slab.dim()))
                                                : reinterpret_cast<uint8_t*>(output<uint16_t>(
                                                      "get", "vectors", *vectors, n * slab.dim()));
  }
  std::vector<int64_t*> cells;
  for (auto& column : columns)
    cells.push_back(column ? output<int64_t>("get", "columns", *column, n) : nullptr);
  py::array_t<bool> found(n);
  bool* out = found.mutable_data();
  interruptible([&](Interrupt& interrupt) {
    pages.get(banks.view, wanted.view, n, skip, vectors_out, cells, interrupt, out);
  });
  return found;
}

py::array_t<bool> contains(Pages& pages, const py::array& handles, const py::array& ids) {
  const Int64Arg banks("contains", "handles", handles);
  const Int64Arg wanted("contains", "ids", ids);
  check_handles("contains", banks, wanted.view.size);
  py::array_t<bool> found(wanted.view.size);
  bool* out = found.mutable_data();
  interruptible([&](Interrupt& interrupt) {
    pages.contains(banks.view, wanted.view, wanted.view.size, interrupt, out);
  });
  return found;
}

py::array_t<int64_t> dead_refs(Pages& pages, int64_t column) {
  std::vector<int64_t> dead;
  {
    const py::gil_scoped_release release;
    dead = pages.dead_refs(column);
  }
  return as_array(dead);
}

py::array_t<bool> holds(Pages& pages, int64_t column, const py::array& numbers) {
  const Int64Arg named("holds", "numbers", numbers);
  py::array_t<bool> held(named.view.size);
  bool* out = held.mutable_data();
  const py::gil_scoped_release release;
  pages.holds(column, named.view, out);
  return held;
}

py::array_t<int64_t> page_table(Pages& pages, int64_t handle) {
  std::vector<int64_t> table;
  {
    const py::gil_scoped_release release;
    table = pages.page_table(handle);
  }
  return as_array(table);
}

py::bytes page_content(Pages& pages, int64_t page) {
  std::string content;
  {
    const py::gil_scoped_release release;
    content = pages.page_content(page);
  }
  return py::bytes(content);
}

template <typename Result>
auto without_gil(Result (Pages::*method)()) {
  return [method](Pages& pages) {
    const py::gil_scoped_release release;
    return (pages.*method)();
  };
}

}  // namespace

void register_pages(py::module_& m) {
  using py::arg;
  py::class_<Pages> cls(
      m, "Pages", "All rows of all banks, and the operations on them. Each is all or nothing.");
  cls.def(py::init(&make), arg("dim"), arg("dtype"), arg("metric"), arg("columns"))
      .def("new", &create, arg("n"), arg("are_lists") = false)
      .def("drop", &drop<Pages>, arg("handles"))
      .def("alive", &alive<Pages>, arg("handles"))
      .def("check", &check, arg("op"), arg("vectors"), arg("columns"),
           "Throws what add or update would for these rows, in the name of op.")
      .def("add", &add, arg("handles"), arg("ids"), arg("vectors"), arg("columns"))
      .def("update", &update, arg("handles"), arg("ids"), arg("vectors"), arg("columns"),
           arg("skip"))
      .def("delete", &remove, arg("handles"), arg("ids"), arg("skip"))
      .def("get", &get, arg("handles"), arg("ids"), arg("skip"), arg("vectors"), arg("columns"))
      .def("contains", &contains, arg("handles"), arg("ids"))
      .def("count", &count<Pages>, arg("handles"))
      .def("ids", &ids<Pages>, arg("handle"))
      .def("fork", &fork<Pages>, arg("handles"), arg("n"))
      .def("copy_from", &copy_from<Pages>, arg("handles"), arg("sources"))
      .def("dead_refs", &dead_refs, arg("column"))
      .def("holds", &holds, arg("column"), arg("numbers"), "Which of these numbers are in rows.")
      .def("compact", without_gil(&Pages::compact))
      .def("page_table", &page_table, arg("handle"),
           "The pages of a bank, in order of its rows. For tests.")
      .def("page_content", &page_content, arg("page"),
           "Rows, shadow, ids and cells of a page. For tests.")
      .def_property_readonly("nbytes", without_gil(&Pages::nbytes))
      .def_property_readonly("n_pages", without_gil(&Pages::n_pages))
      .def_property_readonly("n_free_pages", without_gil(&Pages::n_free_pages))
      .def_property_readonly_static("page_rows", [](const py::object&) { return kPageRows; });
  bind_pages_search(cls);
  bind_pages_changes(cls);
}

}  // namespace memcore
