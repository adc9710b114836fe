// What the library needs of Python: a few names of its stable ABI, which are the same in every version. They are declared
// here, so that the library is built without Python's headers, as it is without torch's. They are weak: the loader binds
// them to the Python that has loaded the library.
#pragma once

#include <cstdint>

extern "C" {

struct PyObject;
using PySize = std::intptr_t;
using PyFunction = PyObject*(PyObject* self, PyObject* const* arguments, PySize count);

struct PyMethodDef {
  const char* name;
  PyFunction* function;
  int flags;
  const char* doc;
};

constexpr int kFastCall = 0x80;  // METH_FASTCALL

#define SGENET_WEAK __attribute__((weak))
SGENET_WEAK extern PyObject _Py_NoneStruct;
SGENET_WEAK PyObject* PyCFunction_NewEx(PyMethodDef*, PyObject* self, PyObject* module);
SGENET_WEAK PyObject* PyObject_CallFunctionObjArgs(PyObject* callable, ...);
SGENET_WEAK PyObject* PyObject_GetAttr(PyObject*, PyObject* name);
SGENET_WEAK PyObject* PyObject_Type(PyObject*);
SGENET_WEAK int PyObject_IsTrue(PyObject*);
SGENET_WEAK PySize PyTuple_Size(PyObject*);
SGENET_WEAK PyObject* PyTuple_GetItem(PyObject*, PySize);
SGENET_WEAK char* PyBytes_AsString(PyObject*);
SGENET_WEAK void* PyCapsule_GetPointer(PyObject*, const char* name);
SGENET_WEAK double PyFloat_AsDouble(PyObject*);
SGENET_WEAK long long PyLong_AsLongLong(PyObject*);
SGENET_WEAK PyObject* PyLong_FromLong(long);
SGENET_WEAK PyObject* PyErr_Occurred();
SGENET_WEAK void PyErr_Clear();
SGENET_WEAK void Py_IncRef(PyObject*);
SGENET_WEAK void Py_DecRef(PyObject*);
SGENET_WEAK void* PyEval_SaveThread();
SGENET_WEAK void PyEval_RestoreThread(void* state);
#undef SGENET_WEAK
}

namespace sgenet {

inline PyObject* none() { return &_Py_NoneStruct; }

// What `body` returns, while other threads of Python run.
template <class Body>
auto without_lock(Body body) {
  void* state = PyEval_SaveThread();
  const auto result = body();
  PyEval_RestoreThread(state);
  return result;
}

}  // namespace sgenet
