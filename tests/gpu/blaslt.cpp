// blaslt.cpp: a libcublasLt.so.12 that plans and multiplies nothing. It starts where CREATE is 0,
// and refuses what the library may: an algorithm for 2^31 numbers, more rows than were checked.
#include <cstring>

#define API extern "C" int

typedef unsigned long long u64;

struct Layout { u64 rows, cols; };

API cublasLtGetProperty(int which, int* to) { *to = which ? which : 12; return 0; }
API cublasLtCreate(void** to) { *to = to; return CREATE; }
API cublasLtMatrixLayoutCreate(void** to, int, u64 rows, u64 cols, long long) {
    *to = new Layout{rows, cols};
    return 0;
}
API cublasLtMatrixLayoutSetAttribute(void* of, int, const void* cols, size_t bytes) {
    memcpy(&static_cast<Layout*>(of)->cols, cols, bytes);
    return 0;
}
API cublasLtMatmulAlgoGetHeuristic(
    void*, void*, void*, void*, void*, void*, void*, int, void* advice, int* count
) {
    memset(advice, 0, 96);
    *count = 1;
    return 0;
}
API cublasLtMatmulAlgoCheck(
    void*, void*, void*, void*, void*, void* d, const void*, void* advice
) {
    const Layout& product = *static_cast<Layout*>(d);
    memset(advice, 0, 96);
    return product.rows * product.cols > 0x7fffffff ? 15 : 0;
}
API cublasLtMatmul(
    void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void* d
) {
    return static_cast<Layout*>(d)->cols > 8192 ? 7 : 0;
}
API cublasLtDestroy(void*) { return 0; }
API cublasLtMatmulDescCreate(void** to, int, int) { *to = to; return 0; }
API cublasLtMatmulDescDestroy(void*) { return 0; }
API cublasLtMatmulDescSetAttribute(void*, int, void*, size_t) { return 0; }
API cublasLtMatrixLayoutDestroy(void* layout) { delete static_cast<Layout*>(layout); return 0; }
API cublasLtMatmulPreferenceCreate(void** to) { *to = to; return 0; }
API cublasLtMatmulPreferenceDestroy(void*) { return 0; }
API cublasLtMatmulPreferenceSetAttribute(void*, int, void*, size_t) { return 0; }
