#pragma once

#include <pybind11/pybind11.h>

namespace memcore {

// One function per area fills the module _core.
void register_engine(pybind11::module_& m);  // isas, threads
void register_search(pybind11::module_& m);
void register_attend(pybind11::module_& m);
void register_codebook(pybind11::module_& m);
void register_pages(pybind11::module_& m);
void register_directory(pybind11::module_& m);
void register_buckets(pybind11::module_& m);
void register_lsh(pybind11::module_& m);
void register_text(pybind11::module_& m);
void register_probe(pybind11::module_& m);  // what the machine can do, for the bench

}  // namespace memcore
