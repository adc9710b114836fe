// What Python calls the kernels with, taken apart: tensors and numbers as they are. When a network runs one image, or has
// just streamed its maps through the caches, the same in Python would take longer than some of the network's layers.
//
// Torch describes its tensors in DLPack's table of C functions, whose layout is fixed by that standard. An older torch
// has no such table; there, a function in Python describes them.
#pragma once

#include <cstring>

#include "abi.h"
#include "python.h"
#include "watchers.h"

namespace sgenet {

constexpr int kMostAxes = 8;

struct Tensor {
  void* data;
  Index element;  // what Element says; negative for other types, and outside of this machine's memory
  Index axes;
  Index sizes[kMostAxes], strides[kMostAxes];

  Index count() const {
    Index product = 1;
    for (Index i = 0; i < axes; ++i) product *= sizes[i];
    return product;
  }

  // Whether the axes, the innermost first, lie in memory one in the other without gaps.
  bool lies_in_order(const int* innermost_first) const {
    Index step = 1;
    for (Index i = 0; i < axes; ++i) {
      const int axis = innermost_first[i];
      if (sizes[axis] != 1 && strides[axis] != step) return false;
      step *= sizes[axis];
    }
    return true;
  }

  bool lies_as_map(bool channels_last) const {
    constexpr int kLast[] = {1, 3, 2, 0}, kFirst[] = {3, 2, 1, 0};
    return lies_in_order(channels_last ? kLast : kFirst);
  }

  bool lies_in_a_row() const {
    int innermost_first[kMostAxes];
    for (Index i = 0; i < axes; ++i) innermost_first[i] = int(axes - 1 - i);
    return lies_in_order(innermost_first);
  }
};

// DLPack, https://dmlc.github.io/dlpack: a tensor, and the head of the table.
struct DlpackTensor {
  void* data;
  std::int32_t device, device_number;
  std::int32_t axes;
  std::uint8_t kind, bits;
  std::uint16_t lanes;
  Index *sizes, *strides;
  std::uint64_t offset;
};

struct DlpackTable {
  std::uint32_t major, minor;
  const void* older;
  const void *allocate, *export_owned, *import_owned;
  int (*describe)(void* object, DlpackTensor*);
};

// How tensors are read: by one of the two.
struct Reader {
  int (*describe)(void* object, DlpackTensor*) = nullptr;
  PyObject* in_python = nullptr;  // returns a Tensor as bytes

  bool read(PyObject* object, Tensor& tensor) const {
    const bool done = describe != nullptr ? read_described(object, tensor) : read_in_python(object, tensor);
    if (!done) PyErr_Clear();
    return done;
  }

 private:
  bool read_described(PyObject* object, Tensor& tensor) const {
    constexpr std::int32_t kCpu = 1, kPinned = 3;
    constexpr int kFloat = 2, kBfloat = 4;
    DlpackTensor found;
    if (describe(object, &found) != 0 || found.axes > kMostAxes || found.strides == nullptr) return false;
    tensor.data = static_cast<char*>(found.data) + found.offset;
    tensor.element = -1;
    if ((found.device == kCpu || found.device == kPinned) && found.lanes == 1) {
      if (found.kind == kFloat && found.bits == 32) tensor.element = Index(Element::kFloat32);
      if (found.kind == kBfloat && found.bits == 16) tensor.element = Index(Element::kBfloat16);
    }
    tensor.axes = found.axes;
    for (Index i = 0; i < tensor.axes; ++i) {
      tensor.sizes[i] = found.sizes[i];
      tensor.strides[i] = found.strides[i];
    }
    return true;
  }

  bool read_in_python(PyObject* object, Tensor& tensor) const {
    PyObject* bytes = PyObject_CallFunctionObjArgs(in_python, object, nullptr);
    const char* found = bytes == nullptr ? nullptr : PyBytes_AsString(bytes);
    if (found != nullptr) std::memcpy(&tensor, found, sizeof tensor);
    if (bytes != nullptr) Py_DecRef(bytes);
    return found != nullptr;
  }
};

extern Reader reader;  // in dispatch.cpp

// Values of either element type.
struct Values {
  const void* data;
  bool bfloat16;
};

struct Norm {
  Values mean, variance, weight, bias;
  double eps;
};

// Takes one argument after the other. What does not fit, this or what follows, is returned as null or 0. Where there are
// watchers, and they are not idle, nothing fits.
class Arguments {
 public:
  Arguments(PyObject* watchers, PyObject* const* given, PySize count, PySize wanted)
      : next_(given),
        fit_(count == wanted && (watchers == nullptr || Watchers(watchers).are_idle(given, count))) {}

  bool fit() const { return fit_; }
  const Shape& shape() const { return shape_; }

  // The map that all others are like, with something in it.
  void* first_map() {
    Tensor x;
    if (!read(x) || !must(x.element >= 0 && x.axes == 4 && x.count() > 0)) return nullptr;
    const Index channels = x.sizes[1], height = x.sizes[2], width = x.sizes[3];
    const Index last[] = {channels * height * width, 1, width * channels, channels};
    const bool exactly_last = std::memcmp(x.strides, last, sizeof last) == 0;
    const bool channels_last = exactly_last || !x.lies_as_map(false);
    if (!must(x.lies_as_map(channels_last))) return nullptr;
    first_ = x;
    shape_ = {x.sizes[0], channels, height * width, channels_last, Element(x.element), 1};
    return x.data;
  }

  void* map() {
    Tensor t;
    if (!read(t) || !must(t.element == first_.element && t.axes == 4)) return nullptr;
    const bool alike = std::memcmp(t.sizes, first_.sizes, 4 * sizeof(Index)) == 0;
    return must(alike && t.lies_as_map(shape_.channels_last)) ? t.data : nullptr;
  }

  void* map_or_none() { return is_none() ? nullptr : map(); }

  // A map that may be the first one, but shares no part of its memory.
  void* map_beside_or_none() {
    char *other = static_cast<char*>(map_or_none()), *first = static_cast<char*>(first_.data);
    const Index bytes = shape_.batch * shape_.bytes_of_sample();
    const bool shares = other != nullptr && other != first && other < first + bytes && first < other + bytes;
    return must(!shares) ? other : nullptr;
  }

  // So many values, in any shape or in that of `sizes`.
  template <class... Size>
  Values values(Index count, Size... sizes) {
    Tensor t;
    if (!read(t) || !must(t.element >= 0 && t.count() == count && t.lies_in_a_row())) return {nullptr, false};
    Index axis = 0;
    const bool shaped = sizeof...(sizes) == 0 || t.axes == sizeof...(sizes);
    if (!must(shaped && (... && (t.sizes[axis++] == sizes)))) return {nullptr, false};
    return {t.data, Element(t.element) == Element::kBfloat16};
  }

  Values values_or_none(Index count) { return is_none() ? Values{nullptr, false} : values(count); }

  float* floats(Index count) {
    const Values found = values(count);
    return must(!found.bfloat16) ? static_cast<float*>(const_cast<void*>(found.data)) : nullptr;
  }

  float* floats_or_none(Index count) { return is_none() ? nullptr : floats(count); }

  // Values in as many rows as samples, and as many columns as channels.
  Values by_channel() { return values(shape_.batch * shape_.channels, shape_.batch, shape_.channels); }

  // The weights of a layer from `inputs` to `outputs`, and its biases, in the map's element type.
  const void* weights(Index outputs, Index inputs) { return like_map(values(outputs * inputs, outputs, inputs)); }
  const void* biases_or_none(Index outputs) { return is_none() ? nullptr : like_map(values(outputs, outputs)); }

  Norm norm() {
    const Index channels = shape_.channels;
    const Values mean = values_or_none(channels), variance = values_or_none(channels);
    const Values weight = values_or_none(channels), bias = values_or_none(channels);
    must((mean.data == nullptr) == (variance.data == nullptr));
    return {mean, variance, weight, bias, number()};
  }

  Index integer() {
    if (!fit_) return 0;
    const Index value = PyLong_AsLongLong(*next_++);
    return understood() ? value : 0;
  }

  double number() {
    if (!fit_) return 0;
    const double value = PyFloat_AsDouble(*next_++);
    return understood() ? value : 0;
  }

  // A number of groups, which divides the channels.
  Index groups() {
    const Index value = integer();
    return must(value >= 1 && shape_.channels % value == 0) ? value : 1;
  }

  double positive() {
    const double value = number();
    return must(value > 0) ? value : 1;
  }

  // The number of threads, which comes last, as a part of the map's shape.
  Shape threads() {
    shape_.threads = int(integer());
    return shape_;
  }

  // The size of the first axis of what comes next, which is not taken.
  Index size_of_next() {
    Tensor t;
    return fit_ && must(reader.read(*next_, t) && t.axes > 0) ? t.sizes[0] : 0;
  }

 private:
  const void* like_map(Values found) {
    return must(found.bfloat16 == (shape_.element == Element::kBfloat16)) ? found.data : nullptr;
  }

  bool must(bool holds) { return fit_ = fit_ && holds; }

  bool read(Tensor& tensor) { return fit_ && must(reader.read(*next_++, tensor)); }

  bool is_none() {
    if (!fit_ || *next_ != none()) return false;
    ++next_;
    return true;
  }

  bool understood() {
    const bool fine = PyErr_Occurred() == nullptr;
    if (!fine) PyErr_Clear();
    return must(fine);
  }

  PyObject* const* next_;
  bool fit_;
  Tensor first_{};
  Shape shape_{};
};

}  // namespace sgenet
