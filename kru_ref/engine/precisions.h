/* kernels.h in both precisions, for the instruction set LEVEL. */

#define REAL float
#define NLANES FLOATS
#define INTEGER int32_t
#define SUFFIX JOIN(LEVEL, float)
#define LIBM_SQRT sqrtf
#define LIBM_TANH tanhf
#define LIBM_EXP expf
#define EXP_LARGEST 80
#define LOG2_E 1.44269504f
#define LN_2_HIGH 0.693359375f /* few digits: a multiple of it is exact */
#define LN_2_LOW -2.12194440e-4f
#define ROUND 12582912.f /* 1.5 · 2^23: what is added to it is rounded to an integer */
#define MANTISSA 23
#define TERMS 8
#define EPSILON 1.1920929e-07f
#define SMALL 1e-15f
#define LARGE 1e15f
#define SCALE 0x1p100f
#include "kernels.h"
#undef REAL
#undef NLANES
#undef INTEGER
#undef SUFFIX
#undef LIBM_SQRT
#undef LIBM_TANH
#undef LIBM_EXP
#undef EXP_LARGEST
#undef LOG2_E
#undef LN_2_HIGH
#undef LN_2_LOW
#undef ROUND
#undef MANTISSA
#undef TERMS
#undef EPSILON
#undef SMALL
#undef LARGE
#undef SCALE

#define REAL double
#define NLANES DOUBLES
#define INTEGER int64_t
#define SUFFIX JOIN(LEVEL, double)
#define LIBM_SQRT sqrt
#define LIBM_TANH tanh
#define LIBM_EXP exp
#define EXP_LARGEST 700
#define LOG2_E 1.4426950408889634
#define LN_2_HIGH 6.93147180369123816490e-01
#define LN_2_LOW 1.90821492927058770002e-10
#define ROUND 6755399441055744.
#define MANTISSA 52
#define TERMS 13
#define EPSILON 2.220446049250313e-16
#define SMALL 1e-140
#define LARGE 1e140
#define SCALE 0x1p700
#include "kernels.h"
#undef REAL
#undef NLANES
#undef INTEGER
#undef SUFFIX
#undef LIBM_SQRT
#undef LIBM_TANH
#undef LIBM_EXP
#undef EXP_LARGEST
#undef LOG2_E
#undef LN_2_HIGH
#undef LN_2_LOW
#undef ROUND
#undef MANTISSA
#undef TERMS
#undef EPSILON
#undef SMALL
#undef LARGE
#undef SCALE
