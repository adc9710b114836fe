// Whether a call may go past torch's dispatcher, which is where gradients, compilers, profilers and other kinds of
// tensors come in. Asking in Python takes as long as the kernel itself takes for a small map.
#pragma once

#include "python.h"

namespace sgenet {

inline PySize length(PyObject* tuple) { return PyTuple_Size(tuple); }
inline PyObject* item(PyObject* tuple, PySize i) { return PyTuple_GetItem(tuple, i); }

// What Python gives as `self` to a function that is to ask. All are tuples.
struct Watchers {
  PyObject *types;      // of arguments without rules of their own
  PyObject *questions;  // functions that return something true while someone watches
  PyObject *states;     // (module, name, value): the module's variable has another value while someone watches

  explicit Watchers(PyObject* self) : types(item(self, 0)), questions(item(self, 1)), states(item(self, 2)) {}

  bool are_idle(PyObject* const* arguments, PySize count) const {
    const bool idle = all_plain(arguments, count) && none_answers() && none_differs();
    PyErr_Clear();
    return idle;
  }

 private:
  bool all_plain(PyObject* const* arguments, PySize count) const {
    for (PySize i = 0; i < count; ++i) {
      PyObject* type = PyObject_Type(arguments[i]);
      bool known = false;
      for (PySize j = 0; j < length(types); ++j) known |= item(types, j) == type;
      Py_DecRef(type);
      if (!known) return false;
    }
    return true;
  }

  bool none_answers() const {
    for (PySize i = 0; i < length(questions); ++i) {
      PyObject* answer = PyObject_CallFunctionObjArgs(item(questions, i), nullptr);
      const bool no = answer != nullptr && PyObject_IsTrue(answer) == 0;
      if (answer != nullptr) Py_DecRef(answer);
      if (!no) return false;
    }
    return true;
  }

  bool none_differs() const {
    for (PySize i = 0; i < length(states); ++i) {
      PyObject* state = item(states, i);
      PyObject* value = PyObject_GetAttr(item(state, 0), item(state, 1));
      const bool same = value == item(state, 2);
      if (value != nullptr) Py_DecRef(value);
      if (!same) return false;
    }
    return true;
  }
};

}  // namespace sgenet
