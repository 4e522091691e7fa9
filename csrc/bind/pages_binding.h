#pragma once

#include <pybind11/pybind11.h>

#include "pages.h"

namespace memcore {

// Adds search and score to the class Pages.
void bind_pages_search(pybind11::class_<Pages>& cls);

// Adds what a mirror on another device reads.
void bind_pages_changes(pybind11::class_<Pages>& cls);

}  // namespace memcore
