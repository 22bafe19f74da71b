/* The CUDA driver of the pretended cards: what PyTorch asks beside the runtime, Triton's launches, and the memory of
 * expandable segments. */
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "card.h"

static char the_context, the_module, the_function;

CUresult cuInit(unsigned flags) {
    (void)flags;
    return emulated_cards() ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}
CUresult cuDriverGetVersion(int *version) {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetCount(int *count) {
    *count = emulated_cards();
    return CUDA_SUCCESS;
}
CUresult cuDeviceGet(CUdevice *device, int index) {
    *device = index;
    return emulated_card_at(index) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
CUresult cuDeviceGetName(char *name, int room, CUdevice device) {
    strncpy(name, emulated_card_at(device)->name, (size_t)room);
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) {
    memcpy(uuid->bytes, emulated_uuid(device), 16);
    return CUDA_SUCCESS;
}
CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    *bytes = emulated_card_at(device)->total_bytes;
    return CUDA_SUCCESS;
}

/* The runtime's attributes carry the driver's numbers; what only the driver has is left to a list of its own. */
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    switch ((int)attribute) {
        case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: *value = 1; return CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED: *value = 1; return CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED:
            *value = emulated_card_at(device)->major >= 9;
            return CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED: *value = 0; return CUDA_SUCCESS;
        default: return (CUresult)cudaDeviceGetAttribute(value, (enum cudaDeviceAttr)attribute, device);
    }
}

CUresult cuCtxGetCurrent(CUcontext *context) {
    *context = (CUcontext)&the_context;
    return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice *device) {
    *device = emulated_current();
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    (void)device;
    *flags = 0;
    *active = 1;
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    (void)device;
    return cuCtxGetCurrent(context);
}
CUresult cuCtxPopCurrent_v2(CUcontext *context) { return cuCtxGetCurrent(context); }
CUresult cuCtxGetLimit(size_t *value, CUlimit limit) {
    (void)limit;
    *value = 0;
    return CUDA_SUCCESS;
}
NOTHING(cuCtxSetCurrent)
NOTHING(cuCtxPushCurrent_v2)
NOTHING(cuCtxSetLimit)
NOTHING(cuCtxSynchronize)
NOTHING(cuLogsRegisterCallback)
NOTHING(cuLogsUnregisterCallback)

CUresult cuGetErrorString(CUresult error, const char **text) {
    *text = cudaGetErrorString((cudaError_t)error);
    return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char **name) {
    *name = cudaGetErrorName((cudaError_t)error);
    return CUDA_SUCCESS;
}

/* ---- pointers ---- */

CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr address) {
    uintptr_t base = 0;
    size_t bytes = 0;
    int card = emulated_owner((void *)address);
    switch ((int)attribute) {
        case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *(CUdeviceptr *)value = address; return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int *)value = card; break;
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: *(unsigned *)value = CU_MEMORYTYPE_DEVICE; break;
        case CU_POINTER_ATTRIBUTE_IS_MANAGED: *(unsigned *)value = 0; break;
        case CU_POINTER_ATTRIBUTE_CONTEXT: *(CUcontext *)value = (CUcontext)&the_context; break;
        case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
            if (emulated_range((void *)address, &base, &bytes)) *(CUdeviceptr *)value = base;
            break;
        case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
            if (emulated_range((void *)address, &base, &bytes)) *(size_t *)value = bytes;
            break;
        default: emulated_unknown("libcuda", "cuPointerGetAttribute for another attribute");
    }
    return card >= 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuPointerGetAttributes(unsigned count, CUpointer_attribute *attributes, void **values, CUdeviceptr address) {
    for (unsigned i = 0; i < count; i++) cuPointerGetAttribute(values[i], attributes[i], address);
    return CUDA_SUCCESS;
}
CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *bytes, CUdeviceptr address) {
    uintptr_t start = 0;
    size_t size = 0;
    if (!emulated_range((void *)address, &start, &size)) return CUDA_ERROR_INVALID_VALUE;
    if (base) *base = start;
    if (bytes) *bytes = size;
    return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) {
    emulated_copy(to, (void *)from, bytes);
    return CUDA_SUCCESS;
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) {
    emulated_copy((void *)to, from, bytes);
    return CUDA_SUCCESS;
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
    (void)stream;
    emulated_fill((void *)to, value, bytes);
    return CUDA_SUCCESS;
}
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
    (void)value, (void)count, (void)stream;
    emulated_handed((void *)to);
    return CUDA_SUCCESS;
}
CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) { return (CUresult)cudaMalloc((void **)address, bytes); }
CUresult cuMemFree_v2(CUdeviceptr address) { return (CUresult)cudaFree((void *)address); }
CUresult cuMemGetInfo_v2(size_t *unused, size_t *total) { return (CUresult)cudaMemGetInfo(unused, total); }

/* ---- memory of expandable segments: address space first, then handles mapped into it ---- */

typedef struct {
    size_t bytes;
    int card;
} piece;

CUresult cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *what,
                                       CUmemAllocationGranularity_flags option) {
    (void)what, (void)option;
    *bytes = GRANULARITY;
    return CUDA_SUCCESS;
}
CUresult cuMemAddressReserve(CUdeviceptr *at, size_t bytes, size_t aligned, CUdeviceptr hint, unsigned long long flags) {
    (void)aligned, (void)hint, (void)flags;
    *at = (CUdeviceptr)emulated_reserve(bytes);
    return CUDA_SUCCESS;
}
CUresult cuMemAddressFree(CUdeviceptr at, size_t bytes) {
    (void)bytes;
    return emulated_unreserve((void *)at) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *what,
                     unsigned long long flags) {
    (void)flags;
    if (!emulated_charge(what->location.id, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
    piece *made = malloc(sizeof *made);
    if (!made) return CUDA_ERROR_OUT_OF_MEMORY;
    made->bytes = bytes;
    made->card = what->location.id;
    *handle = (CUmemGenericAllocationHandle)made;
    return CUDA_SUCCESS;
}
CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
    piece *made = (piece *)handle;
    emulated_refund(made->card, made->bytes);
    free(made);
    return CUDA_SUCCESS;
}
CUresult cuMemMap(CUdeviceptr at, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags) {
    (void)offset, (void)flags;
    emulated_map((void *)at, bytes, ((piece *)handle)->card);
    return CUDA_SUCCESS;
}
CUresult cuMemUnmap(CUdeviceptr at, size_t bytes) {
    emulated_unmap((void *)at, bytes);
    return CUDA_SUCCESS;
}
NOTHING(cuMemSetAccess)

/* Undocumented tables, which a library asks for if it carries a runtime of its own: it is told that there are none. */
CUresult cuGetExportTable(const void **table, const CUuuid *id) {
    (void)id;
    *table = NULL;
    return CUDA_ERROR_NOT_FOUND;
}

CUresult cuGetProcAddress_v2(const char *name, void **function, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *result) {
    enum cudaDriverEntryPointQueryResult found;
    cudaGetDriverEntryPointByVersion(name, function, (unsigned)version, flags, &found);
    if (result) *result = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

/* ---- modules and launches ---- */

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    (void)image;
    *module = (CUmodule)&the_module;
    return CUDA_SUCCESS;
}
CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned n, CUjit_option *options, void **values) {
    (void)n, (void)options, (void)values;
    return cuModuleLoadData(module, image);
}
CUresult cuModuleLoad(CUmodule *module, const char *file) {
    (void)file;
    return cuModuleLoadData(module, NULL);
}
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    (void)module, (void)name;
    *function = (CUfunction)&the_function;
    return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
    (void)function;
    switch ((int)attribute) {
        case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
        case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = 64; break;
        default: *value = 0;
    }
    return CUDA_SUCCESS;
}
CUresult cuOccupancyMaxActiveClusters(int *count, CUfunction function, const CUlaunchConfig *config) {
    (void)function, (void)config;
    *count = 1;
    return CUDA_SUCCESS;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction f, int threads, size_t bytes) {
    return (CUresult)cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, (const void *)f, threads, bytes);
}
CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned bytes, CUstream stream, void **parameters, void **extra) {
    (void)f, (void)gx, (void)gy, (void)gz, (void)bx, (void)by, (void)bz, (void)bytes, (void)stream, (void)extra;
    emulated_launch(parameters);
    return CUDA_SUCCESS;
}
CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                   unsigned bz, unsigned bytes, CUstream stream, void **parameters) {
    return cuLaunchKernel(f, gx, gy, gz, bx, by, bz, bytes, stream, parameters, NULL);
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **parameters, void **extra) {
    (void)config, (void)f, (void)extra;
    emulated_launch(parameters);
    return CUDA_SUCCESS;
}
/* A tensor map holds an address that a kernel gets in a form of its own: its tensor counts as handed on. */
CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                const cuuint64_t *sizes, const cuuint64_t *strides, const cuuint32_t *box,
                                const cuuint32_t *element, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    (void)type, (void)rank, (void)sizes, (void)strides, (void)box, (void)element, (void)interleave, (void)swizzle;
    (void)promotion, (void)fill;
    memset(map, 0, sizeof *map);
    emulated_handed(address);
    return CUDA_SUCCESS;
}
NOTHING(cuTensorMapEncodeIm2col)
NOTHING(cuModuleUnload)
NOTHING(cuFuncSetAttribute)
NOTHING(cuFuncSetCacheConfig)
NOTHING(cuStreamSynchronize)
