/* As many multiply-adds a second as the processor can do: independent ones, in registers.
   Compiled by scaling.py with -O3 -march=native, which sets the length of a vector. */

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define CHAINS 12 /* more than the latency of one times how many start at once */

#define MULTIPLY_ADDS(REAL)                                                                \
    double multiply_adds_##REAL(long n)                                                    \
    {                                                                                      \
        typedef REAL vec __attribute__((vector_size(BYTES)));                              \
        vec sum[CHAINS], a = {0}, b = {0};                                                 \
        double total = 0;                                                                  \
        a += (REAL)0.999, b += (REAL)0.001;                                                \
        for (int i = 0; i < CHAINS; i++)                                                   \
            sum[i] = b * (REAL)i;                                                                \
        for (long k = 0; k < n; k++)                                                       \
            for (int i = 0; i < CHAINS; i++)                                               \
                sum[i] = sum[i] * a + b;                                                   \
        for (int i = 0; i < CHAINS; i++)                                                   \
            for (unsigned j = 0; j < BYTES / sizeof(REAL); j++)                            \
                total += sum[i][j];                                                        \
        return total; /* else the compiler would leave the loop out */                     \
    }                                                                                      \
    long multiply_adds_a_round_##REAL(void) { return CHAINS * BYTES / sizeof(REAL); }

MULTIPLY_ADDS(float)
MULTIPLY_ADDS(double)
