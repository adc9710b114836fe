// Vectors of W floats, and how they are read from and written to float32 and bfloat16 memory.
//
// Built on the vector extensions of GCC and Clang: the same source becomes AVX-512, AVX2, SSE2 or NEON by the width and
// the compiler's flags alone. Intrinsics stand only where the extensions have no word: for stores that pass the cache,
// and for the rounding instruction of AVX512-BF16.
//
// A pack is what one step reads from memory: a vector of floats, or two vectors of bfloat16. The halves of a bfloat16
// pack are its even and its odd elements, because a pair of them splits by a shift and a mask; everything that is
// combined with a pack element by element (a mean, a factor a channel) is kept in that order too, "pack order".
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "abi.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define SGENET_INLINE __attribute__((always_inline))

namespace sgenet {
namespace SGENET_ISA {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "bfloat16 pairs are split as little-endian words");

struct Bfloat16 {
  std::uint16_t bits;
};

// The same, but read by single vectors: where neighbours belong to different groups, halves would mix them.
struct LoneBfloat16 {
  std::uint16_t bits;
};

template <int W>
struct Lanes {
  typedef float Float __attribute__((vector_size(4 * W)));
  typedef float Anywhere __attribute__((vector_size(4 * W), aligned(4)));  // not on a vector's own alignment
  typedef std::int32_t Int __attribute__((vector_size(4 * W)));
  typedef std::uint32_t Word __attribute__((vector_size(4 * W)));
  typedef std::uint16_t Halves __attribute__((vector_size(4 * W)));
  typedef std::uint16_t HalvesAnywhere __attribute__((vector_size(4 * W), aligned(2)));
  typedef std::uint16_t Shorts __attribute__((vector_size(2 * W)));
  typedef std::uint16_t ShortsAnywhere __attribute__((vector_size(2 * W), aligned(2)));
};

template <int W>
using Vector = typename Lanes<W>::Float;
template <int W>
using Mask = typename Lanes<W>::Int;  // all bits of a lane, or none

inline SGENET_INLINE Index least(Index a, Index b) { return a < b ? a : b; }

template <class To, class From>
inline SGENET_INLINE To same_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits need the same room");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <int W>
inline SGENET_INLINE Vector<W> all(float value) {
  return value - Vector<W>{};
}

template <int W>
inline SGENET_INLINE Vector<W> load(const float* p) {
  return *reinterpret_cast<const typename Lanes<W>::Anywhere*>(p);
}

// Not by memcpy: what is stored so might, for all that the compiler knows, change anything in memory.
template <int W>
inline SGENET_INLINE void store(float* p, Vector<W> v) {
  *reinterpret_cast<typename Lanes<W>::Anywhere*>(p) = v;
}

// Ask for a cache line, soon to be used or early; p may point anywhere.
inline SGENET_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }
inline SGENET_INLINE void prefetch_early(const void* p) { __builtin_prefetch(p, 0, 2); }

template <int W>
inline SGENET_INLINE float sum_of_lanes(Vector<W> v) {
  if constexpr (W == 1) {
    return v[0];
  } else {
    Vector<W / 2> low, high;
    std::memcpy(&low, &v, sizeof low);
    std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
    return sum_of_lanes<W / 2>(low + high);
  }
}

// total += part, less what rounding has added to it so far, which `excess` holds (W. Kahan, "Further remarks on reducing
// truncation errors", 1965): however many parts, the sum is as good as its last rounding. Numbers or vectors.
template <class Value>
inline SGENET_INLINE void add_compensated(Value& total, Value& excess, Value part) {
  const Value due = part - excess, sum = total + due;
  excess = (sum - total) - due;
  total = sum;
}

// ---------------------------------------------------------------------------------------------------------- shuffles

// Lane l of the result is lane from(l) of a, or, from W on, lane from(l) - W of b.
template <int W, class From, std::size_t... L>
inline SGENET_INLINE Vector<W> shuffled(Vector<W> a, Vector<W> b, From, std::index_sequence<L...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, From::lane(int(L))...);
#else
  return __builtin_shuffle(a, b, Mask<W>{From::lane(int(L))...});
#endif
}

template <int W, class From>
inline SGENET_INLINE Vector<W> shuffled(Vector<W> a, Vector<W> b, From from) {
  return shuffled<W>(a, b, from, std::make_index_sequence<W>{});
}

template <int W, int Distance>
struct Straight {
  static constexpr int lane(int l) { return l & Distance ? l + W : l; }
};

template <int W, int Distance>
struct Crossed {
  static constexpr int lane(int l) { return l & Distance ? l - Distance + W : l + Distance; }
};

template <int W, int K, int I>
struct Repeated {
  static constexpr int lane(int l) { return l / K * K + I; }
};

template <int I>
using Constant = std::integral_constant<int, I>;

// Calls f(Constant<0>), ..., f(Constant<N - 1>).
template <class F, int... I>
inline SGENET_INLINE void unrolled(std::integer_sequence<int, I...>, F&& f) {
  (f(Constant<I>{}), ...);
}

template <int N, class F>
inline SGENET_INLINE void unrolled(F&& f) {
  unrolled(std::make_integer_sequence<int, N>{}, f);
}

// Sums over runs of K lanes of K vectors, packed into one vector. Lane l of the result is the sum over the run l / K of
// the vector l % K, which is leaf(Constant<l % K>). For K = 4 (lanes of 8; a, b, c, d the vectors):
//
//     a0 a1 a2 a3 | a4 a5 a6 a7      level 1: neighbours of a and b meet   a01 b01 a23 b23 | a45 b45 a67 b67
//     b0 b1 b2 b3 | b4 b5 b6 b7               and those of c and d         c01 d01 c23 d23 | c45 d45 c67 d67
//     c0 ...                         level 2: the pairs meet               a   b   c   d   | a'  b'  c'  d'
//
// Each level costs one blend and one shuffle for two vectors. `Count` such sums are formed side by side: a leaf gives a
// vector for each, and can share what it loads between them.
template <int W, int Count>
struct Several {
  Vector<W> v[Count];
};

template <int W, int Count, int K, int First = 0, class Leaf>
inline SGENET_INLINE Several<W, Count> run_sums(Leaf& leaf) {
  if constexpr (K == 1) {
    return leaf(Constant<First>{});
  } else {
    const Several<W, Count> a = run_sums<W, Count, K / 2, First>(leaf);
    const Several<W, Count> b = run_sums<W, Count, K / 2, First + K / 2>(leaf);
    Several<W, Count> sum;
    for (int i = 0; i < Count; ++i) {
      sum.v[i] = shuffled<W>(a.v[i], b.v[i], Straight<W, K / 2>{}) + shuffled<W>(a.v[i], b.v[i], Crossed<W, K / 2>{});
    }
    return sum;
  }
}

// The way back: lane l of the result is what belongs to lane l of vector I, where `packed` came from run_sums.
template <int W, int K, int I>
inline SGENET_INLINE Vector<W> spread(Vector<W> packed) {
  return shuffled<W>(packed, packed, Repeated<W, K, I>{});
}

// ------------------------------------------------------------------------------------------------------------- packs

template <class T, int W>
struct Pack;

template <int W>
struct Pack<float, W> {
  static constexpr int kVectors = 1;
  static constexpr int kElements = W;
  Vector<W> v[1];

  static constexpr int element(int, int lane) { return lane; }  // which element of the pack a lane holds

  static SGENET_INLINE Pack read(const float* p) { return {{load<W>(p)}}; }
  SGENET_INLINE void write(float* p) const { store<W>(p, v[0]); }
  SGENET_INLINE void stream(float* p) const {
#if defined(__AVX512F__)
    if constexpr (W == 16) return _mm512_stream_ps(p, same_bits<__m512>(v[0]));
#endif
#if defined(__AVX__)
    if constexpr (W == 8) return _mm256_stream_ps(p, same_bits<__m256>(v[0]));
#endif
#if defined(__SSE2__)
    if constexpr (W == 4) return _mm_stream_ps(p, same_bits<__m128>(v[0]));
#endif
    write(p);
  }
};

// The bits of a bfloat16 in the upper half of each word: to nearest, ties to even; NaN stays NaN.
template <int W>
inline SGENET_INLINE typename Lanes<W>::Word rounded_to_upper_half(Vector<W> v) {
  using Word = typename Lanes<W>::Word;
  const Word bits = same_bits<Word>(v);
  const Word rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const Word nan = Word{} + 0x7fc00000u;
  return v == v ? rounded : nan;
}

template <int W>
struct Pack<Bfloat16, W> {
  static constexpr int kVectors = 2;
  static constexpr int kElements = 2 * W;
  Vector<W> v[2];
  using Word = typename Lanes<W>::Word;
  using Halves = typename Lanes<W>::Halves;
  using HalvesAnywhere = typename Lanes<W>::HalvesAnywhere;

  static constexpr int element(int half, int lane) { return 2 * lane + half; }

  static SGENET_INLINE Pack read(const Bfloat16* p) {
    const Halves halves = *reinterpret_cast<const HalvesAnywhere*>(p);
    const Word pairs = same_bits<Word>(halves);
    return {{same_bits<Vector<W>>(Word(pairs << 16)), same_bits<Vector<W>>(Word(pairs & 0xffff0000u))}};
  }

  SGENET_INLINE Word pairs() const {
#if defined(__AVX512BF16__)
    if constexpr (W == 16) {
      const __m512 even = same_bits<__m512>(v[0]), odd = same_bits<__m512>(v[1]);
      // The instruction takes numbers below the normal range for 0, as no other conversion does: they go the long way.
      constexpr int kSubnormal = 0x20;
      if (_kortestz_mask16_u8(_mm512_fpclass_ps_mask(even, kSubnormal), _mm512_fpclass_ps_mask(odd, kSubnormal))) {
        // It rounds to [16 even | 16 odd] elements; the permutation lets them alternate again.
        const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23,
                                                    7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        const auto halves = _mm512_cvtne2ps_pbh(odd, even);
        return same_bits<Word>(_mm512_permutexvar_epi16(interleave, same_bits<__m512i>(halves)));
      }
    }
#endif
    return (rounded_to_upper_half<W>(v[0]) >> 16) | (rounded_to_upper_half<W>(v[1]) & 0xffff0000u);
  }

  SGENET_INLINE void write(Bfloat16* p) const {
    *reinterpret_cast<HalvesAnywhere*>(p) = same_bits<Halves>(pairs());
  }

  SGENET_INLINE void stream(Bfloat16* p) const {
    Pack<float, W>{{same_bits<Vector<W>>(pairs())}}.stream(reinterpret_cast<float*>(p));
  }
};

template <int W>
struct Pack<LoneBfloat16, W> {
  static constexpr int kVectors = 1;
  static constexpr int kElements = W;
  Vector<W> v[1];
  using Word = typename Lanes<W>::Word;
  using Shorts = typename Lanes<W>::Shorts;
  using ShortsAnywhere = typename Lanes<W>::ShortsAnywhere;

  static constexpr int element(int, int lane) { return lane; }

  static SGENET_INLINE Pack read(const LoneBfloat16* p) {
    const Shorts bits = *reinterpret_cast<const ShortsAnywhere*>(p);
    return {{same_bits<Vector<W>>(Word(__builtin_convertvector(bits, Word) << 16))}};
  }

  SGENET_INLINE Shorts shorts() const {
    return __builtin_convertvector(Word(rounded_to_upper_half<W>(v[0]) >> 16), Shorts);
  }

  SGENET_INLINE void write(LoneBfloat16* p) const { *reinterpret_cast<ShortsAnywhere*>(p) = shorts(); }

  SGENET_INLINE void stream(LoneBfloat16* p) const {
    Pack<float, W / 2>{{same_bits<Vector<W / 2>>(shorts())}}.stream(reinterpret_cast<float*>(p));
  }
};

// Single elements, for maps and groups too small for any vector.
template <>
struct Pack<Bfloat16, 1> {
  static constexpr int kVectors = 1;
  static constexpr int kElements = 1;
  Vector<1> v[1];

  static constexpr int element(int, int lane) { return lane; }

  static SGENET_INLINE Pack read(const Bfloat16* p) {
    return {{same_bits<Vector<1>>(std::uint32_t{p->bits} << 16)}};
  }
  SGENET_INLINE void write(Bfloat16* p) const { p->bits = std::uint16_t(rounded_to_upper_half<1>(v[0])[0] >> 16); }
  SGENET_INLINE void stream(Bfloat16* p) const { write(p); }
};

// ------------------------------------------------------------------------------------------------------- mathematics

// max(v, floor) and min(v, ceiling) that keep NaN.
template <int W>
inline SGENET_INLINE Vector<W> at_least(Vector<W> v, Vector<W> floor) {
#if defined(__AVX512F__)
  // The compiler would compare, and select by a mask. Of a NaN and a number the instruction returns the second.
  if constexpr (W == 16) return same_bits<Vector<W>>(_mm512_max_ps(same_bits<__m512>(floor), same_bits<__m512>(v)));
#endif
  return v < floor ? floor : v;
}
template <int W>
inline SGENET_INLINE Vector<W> at_most(Vector<W> v, Vector<W> ceiling) {
#if defined(__AVX512F__)
  if constexpr (W == 16) return same_bits<Vector<W>>(_mm512_min_ps(same_bits<__m512>(ceiling), same_bits<__m512>(v)));
#endif
  return v > ceiling ? ceiling : v;
}

// 2^v to 2e-7 of its value for v < 127; at its low end it ends at 0 or at the least normal number. NaN stays NaN.
template <int W>
inline SGENET_INLINE Vector<W> power_of_two(Vector<W> v) {
  // 2^v = 2^whole 2^rest: 0 <= rest <= 1. This is the best polynomial of its degree for 2^rest, within 8e-8 of it, but
  // for the last digits of two coefficients: with these 1 / e is rounded right, and a module that starts as the identity
  // has a gate of exactly 1.
  const auto fraction = [](Vector<W> rest) SGENET_INLINE {
    Vector<W> power = rest * 1.87757669e-3f + 8.98933969e-3f;
    power = power * rest + 5.58263175e-2f;
    power = power * rest + 0.240153655f;
    power = power * rest + 0.693153024f;
    return power * rest + 0.99999994f;
  };
#if defined(__AVX512DQ__)
  if constexpr (W == 16) {
    const auto exponent = same_bits<__m512>(v);
    const auto rest = same_bits<Vector<W>>(_mm512_reduce_ps(exponent, _MM_FROUND_TO_NEG_INF));
    return same_bits<Vector<W>>(_mm512_scalef_ps(same_bits<__m512>(fraction(rest)), exponent));
  }
#endif
  using Word = typename Lanes<W>::Word;
  v = at_least<W>(v, all<W>(-125.0f));
  // Adding 1.5 * 2^23 leaves the whole part in the last bits of the sum; what stands above it is shifted out.
  const Vector<W> shifted = (v - 0.5f) + 12582912.0f;
  const Vector<W> power = fraction(v - (shifted - 12582912.0f));
  return same_bits<Vector<W>>(Word(same_bits<Word>(power) + (same_bits<Word>(shifted) << 23)));
}

// numerator / (1 + 2^v). A sigmoid is one, of v times kMinusLog2E; who needs it multiplies where that costs nothing.
template <int W>
inline SGENET_INLINE Vector<W> logistic(float numerator, Vector<W> v) {
  return numerator / (1.0f + power_of_two<W>(at_most<W>(v, all<W>(126.0f))));
}

constexpr float kMinusLog2E = -1.44269504f;  // sigmoid(v) = logistic(1, kMinusLog2E v)

}  // namespace SGENET_ISA
}  // namespace sgenet
