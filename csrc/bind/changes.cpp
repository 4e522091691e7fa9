#include <optional>

#include "arguments.h"
#include "check.h"
#include "module.h"
#include "pages_binding.h"

namespace py = pybind11;

namespace memcore {
namespace {

py::array_t<int64_t> as_array(const std::vector<int64_t>& values, int64_t columns = 0) {
  const auto n = static_cast<py::ssize_t>(values.size());
  if (columns == 0) return py::array_t<int64_t>(n, values.data());
  return py::array_t<int64_t>({n / columns, static_cast<py::ssize_t>(columns)}, values.data());
}

Int64View view(const char* op, const char* name, const py::array& array) {
  return {plain<int64_t>(op, name, array, array.size()), array.size(), 1};
}

py::dict take_changes(Pages& pages) {
  Journal::Changes changes;
  {
    const py::gil_scoped_release release;
    changes = pages.take_changes();
  }
  py::dict out;
  out["copies"] = as_array(changes.copies, 2);
  out["moves"] = as_array(changes.moves, 2);
  out["slots"] = as_array(changes.slots);
  out["n_rows"] = changes.n_rows;
  out["banks"] = as_array(changes.banks, 4);
  out["places"] = as_array(changes.places);
  out["entries"] = as_array(changes.entries);
  out["pool_size"] = changes.pool_size;
  return out;
}

void mark_changed(Pages& pages, const py::array& numbers) {
  const Int64View named = view("mark_changed", "pages", numbers);
  const py::gil_scoped_release release;
  pages.mark_changed(named);
}

py::array_t<int64_t> find_slots(Pages& pages, const py::array& handles, const py::array& ids) {
  const Int64View banks = view("find_slots", "handles", handles);
  const Int64View named = view("find_slots", "ids", ids);
  MEMCORE_CHECK(banks.size == named.size, kShape, "find_slots: handles has ", banks.size,
                " entries, should have ", named.size, " as ids has");
  py::array_t<int64_t> slots(named.size);
  int64_t* out = slots.mutable_data();
  const py::gil_scoped_release release;
  pages.find_slots(banks, named, named.size, out);
  return slots;
}

void read_slots(Pages& pages, const py::array& slots, std::optional<py::array> rows, py::array& ids,
                py::array& cells) {
  const Int64View named = view("read_slots", "slots", slots);
  const int64_t n = named.size;
  const int n_columns = pages.slab().n_columns();
  auto* row_bytes =
      rows ? plain_output<uint8_t>("read_slots", "rows", *rows, n * pages.slab().row_bytes())
           : nullptr;
  auto* row_ids = plain_output<int64_t>("read_slots", "ids", ids, n);
  auto* first = plain_output<int64_t>("read_slots", "cells", cells, n * n_columns);
  std::vector<int64_t*> columns;
  for (int column = 0; column < n_columns; ++column) columns.push_back(first + column * n);
  const py::gil_scoped_release release;
  pages.read_slots(named, row_bytes, row_ids, columns);
}

py::array_t<int64_t> page_addresses(Pages& pages, const py::array& numbers) {
  const Int64View named = view("page_addresses", "pages", numbers);
  std::vector<int64_t> places;
  {
    const py::gil_scoped_release release;
    places = pages.page_addresses(named);
  }
  return as_array(places, 4);
}

// Pairs of numbers that the store tells.
template <std::vector<int64_t> (Pages::*kTold)()>
py::array_t<int64_t> table_of(Pages& pages) {
  std::vector<int64_t> pairs;
  {
    const py::gil_scoped_release release;
    pairs = (pages.*kTold)();
  }
  return as_array(pairs, 2);
}

py::tuple page_tables(Pages& pages, const py::array& handles) {
  const Int64View named = view("page_tables", "handles", handles);
  py::array_t<int64_t> ends(named.size);
  int64_t* out = ends.mutable_data();
  std::vector<int64_t> tables;
  {
    const py::gil_scoped_release release;
    tables = pages.page_tables(named, out);
  }
  return py::make_tuple(as_array(tables), ends);
}

}  // namespace

void bind_pages_changes(py::class_<Pages>& cls) {
  using py::arg;
  cls.def(
         "start_journal",
         [](Pages& pages) {
           const py::gil_scoped_release release;
           pages.start_journal();
         },
         "Notes what changes, for a mirror; all that is there counts as changed.")
      .def("take_changes", &take_changes,
           "What has changed since the last call: copies (n, 2) of pages, to be done first; moves "
           "(n, 2) of rows from slot to slot, to be done next, all at once; slots (n,) that were "
           "written, of which the first n_rows hold rows and the others are wiped; "
           "banks (n, 4) by index, generation (0: dropped), rows and begin of their table; entries "
           "(n,) of tables and their places in a pool of pool_size.")
      .def("mark_changed", &mark_changed, arg("pages"), "Notes pages as written.")
      .def("read_slots", &read_slots, arg("slots"), arg("rows"), arg("ids"), arg("cells"),
           "Copies rows (n, row_bytes) as bytes, or none for None, ids (n,) and cells (n_columns, "
           "n) "
           "out.")
      .def("find_slots", &find_slots, arg("handles"), arg("ids"),
           "The slots of rows (n,) by bank and id, -1 where there is none.")
      .def("page_addresses", &page_addresses, arg("pages"),
           "Where pages lie until the next compact, (n, 4): the addresses of rows, ids and cells, "
           "and the bytes from one column's cells to the next.")
      .def("column_nulls", &table_of<&Pages::column_nulls>,
           "(n_columns, 2): whether cells of the column are kept, and what they are if not.")
      .def("chunk_memory", &table_of<&Pages::chunk_memory>,
           "(n_chunks, 2): the address and the bytes of all memory that pages are in.")
      .def("page_tables", &page_tables, arg("handles"),
           "The tables of banks one after the other, and where each ends.");
}

}  // namespace memcore
