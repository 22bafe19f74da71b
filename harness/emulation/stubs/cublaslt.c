/* cuBLASLt of the pretended cards: descriptors are names, and every product has one algorithm without a workspace. */
#include <cublasLt.h>
#include <string.h>

#include "card.h"

size_t cublasLtGetVersion(void) { return CUBLAS_VERSION; }

static int make(void **descriptor) {
    *descriptor = emulated_handle();
    return 0;
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) { return make((void **)handle); }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *descriptor, cublasComputeType_t type, cudaDataType_t scale) {
    (void)type, (void)scale;
    return make((void **)descriptor);
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t leading) {
    (void)type, (void)rows, (void)columns, (void)leading;
    return make((void **)layout);
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    return make((void **)preference);
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results, int *found) {
    (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d, (void)preference;
    memset(results, 0, (size_t)wanted * sizeof *results);
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}
NOTHING(cublasLtDestroy)
NOTHING(cublasLtMatmulAlgoCheck)
NOTHING(cublasLtMatmulAlgoConfigGetAttribute)
NOTHING(cublasLtMatmulAlgoConfigSetAttribute)
NOTHING(cublasLtMatmulAlgoInit)
NOTHING(cublasLtMatmulDescDestroy)
NOTHING(cublasLtMatmulDescSetAttribute)
NOTHING(cublasLtMatmulPreferenceDestroy)
NOTHING(cublasLtMatmulPreferenceSetAttribute)
NOTHING(cublasLtMatrixLayoutDestroy)
NOTHING(cublasLtMatrixLayoutSetAttribute)
COMPUTES(cublasLtMatmul)
