// A team of threads from the OpenMP runtime that torch has loaded, and scratch memory for it.
//
// The runtime is called by name instead of by pragmas: a pragma would bind this library, when it is built, to the
// compiler's own runtime, and a wheel of torch may bring another copy of it under another name. Then two pools of
// threads would spin on the same cores. These four names belong to libgomp's interface, which the runtimes of LLVM and
// Intel offer too. They are weak: the loader binds them to what torch has loaded, and where it has none they are null
// and one thread does the work.
#pragma once

#include <cstdlib>
#include <cstring>

#include "abi.h"
#include "vector.h"

extern "C" {
void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags) __attribute__((weak));
void GOMP_barrier(void) __attribute__((weak));
int omp_get_thread_num(void) __attribute__((weak));
int omp_get_num_threads(void) __attribute__((weak));
}

namespace sgenet {

// Memory that a calling thread keeps from call to call: fresh pages would cost more than the work on them.
class Scratch {
 public:
  ~Scratch() { std::free(memory_); }

  // Room for `floats`, on a page of its own; null if there is none.
  float* take(std::size_t floats) {
    if (floats > size_) {
      std::free(memory_);
      size_ = (floats + kPage - 1) / kPage * kPage;
      memory_ = static_cast<float*>(std::aligned_alloc(kPage * sizeof(float), size_ * sizeof(float)));
      if (memory_ == nullptr) size_ = 0;
    }
    return memory_;
  }

 private:
  static constexpr std::size_t kPage = 1024;
  float* memory_ = nullptr;
  std::size_t size_ = 0;
};

Scratch& scratch_of_this_thread();  // in dispatch.cpp, one for all instruction sets

namespace SGENET_ISA {

struct Range {
  Index first, last;
};

struct Team {
  Index rank, size;

  Range share(Index count) const { return {count * rank / size, count * (rank + 1) / size}; }
  void barrier() const {
    if (size > 1) GOMP_barrier();
  }
};

template <class Body>
void enter(void* body) {
  (*static_cast<Body*>(body))(Team{omp_get_thread_num(), omp_get_num_threads()});
}

// Calls body(Team) in each of `threads` threads, or of fewer where the runtime has fewer.
template <class Body>
void in_parallel(Index threads, Body body) {
  if (threads <= 1 || GOMP_parallel == nullptr) {
    body(Team{0, 1});
  } else {
    GOMP_parallel(enter<Body>, &body, unsigned(threads), 0);
  }
}

// Hands out parts of one block of scratch memory, each on a cache line of its own. Without memory it only counts.
class Carver {
 public:
  explicit Carver(float* memory) : memory_(memory) {}

  float* floats(Index count) {
    float* part = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += (count + kLine - 1) / kLine * kLine;
    return part;
  }

  Index used() const { return used_; }

 private:
  static constexpr Index kLine = 16;
  float* memory_;
  Index used_ = 0;
};

}  // namespace SGENET_ISA
}  // namespace sgenet
