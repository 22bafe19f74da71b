/* The CUDA runtime of the pretended cards: memory is counted, streams and events are names, kernels do nothing. */
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "card.h"

#define THREADS_PER_BLOCK 1024

static __thread cudaError_t last;

static cudaError_t said(cudaError_t error) {
    if (error) last = error;
    return error;
}

/* ---- devices ---- */

cudaError_t cudaGetDeviceCount(int *count) {
    *count = emulated_cards();
    return said(*count ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int *device) {
    *device = emulated_current();
    return said(emulated_cards() ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) { return said(emulated_select(device) ? cudaSuccess : cudaErrorInvalidDevice); }

static int version(int *value) {
    *value = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *value) { return version(value); }
cudaError_t cudaRuntimeGetVersion(int *value) { return version(value); }

static int threads_per_multiprocessor(const emulated_card *card) {
    int capability = 10 * card->major + card->minor;
    if (capability == 75) return 1024;
    return capability == 86 || capability == 87 || capability == 89 || card->major == 12 ? 1536 : 2048;
}

static int blocks_per_multiprocessor(const emulated_card *card) {
    int capability = 10 * card->major + card->minor;
    if (capability == 75 || capability == 86 || capability == 87) return 16;
    return capability == 89 || card->major == 12 ? 24 : 32;
}

/* 32 KiB over what one block may opt in to at 7.5; 1 KiB, the runtime's own, elsewhere. */
static size_t shared_per_multiprocessor(const emulated_card *card) {
    return card->major == 7 ? card->shared_optin_bytes : card->shared_optin_bytes + 1024;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    const emulated_card *card = emulated_card_at(device);
    if (!card) return said(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    memcpy(p->name, card->name, sizeof p->name);
    memcpy(p->uuid.bytes, emulated_uuid(device), 16);
    p->totalGlobalMem = card->total_bytes;
    p->major = card->major;
    p->minor = card->minor;
    p->multiProcessorCount = card->multiprocessors;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = card->shared_optin_bytes;
    p->sharedMemPerMultiprocessor = shared_per_multiprocessor(card);
    p->reservedSharedMemPerBlock = card->major >= 8 ? 1024 : 0;
    p->l2CacheSize = card->l2_bytes;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = THREADS_PER_BLOCK;
    p->maxThreadsPerMultiProcessor = threads_per_multiprocessor(card);
    p->maxBlocksPerMultiProcessor = blocks_per_multiprocessor(card);
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->textureAlignment = 512;
    p->totalConstMem = 65536;
    p->unifiedAddressing = p->managedMemory = p->concurrentKernels = p->cooperativeLaunch = 1;
    p->asyncEngineCount = 2;
    p->memoryBusWidth = 4096;
    p->pciBusID = device + 1;
    return cudaSuccess;
}

static bool attribute(int *value, int attribute_number, const struct cudaDeviceProp *p) {
    switch (attribute_number) {
        case cudaDevAttrMaxThreadsPerBlock: *value = p->maxThreadsPerBlock; return true;
        case cudaDevAttrMaxBlockDimX: *value = p->maxThreadsDim[0]; return true;
        case cudaDevAttrMaxBlockDimY: *value = p->maxThreadsDim[1]; return true;
        case cudaDevAttrMaxBlockDimZ: *value = p->maxThreadsDim[2]; return true;
        case cudaDevAttrMaxGridDimX: *value = p->maxGridSize[0]; return true;
        case cudaDevAttrMaxGridDimY: *value = p->maxGridSize[1]; return true;
        case cudaDevAttrMaxGridDimZ: *value = p->maxGridSize[2]; return true;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)p->sharedMemPerBlock; return true;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)p->sharedMemPerBlockOptin; return true;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)p->sharedMemPerMultiprocessor; return true;
        case cudaDevAttrReservedSharedMemoryPerBlock: *value = (int)p->reservedSharedMemPerBlock; return true;
        case cudaDevAttrTotalConstantMemory: *value = (int)p->totalConstMem; return true;
        case cudaDevAttrWarpSize: *value = p->warpSize; return true;
        case cudaDevAttrMaxRegistersPerBlock: *value = p->regsPerBlock; return true;
        case cudaDevAttrMaxRegistersPerMultiprocessor: *value = p->regsPerMultiprocessor; return true;
        case cudaDevAttrMultiProcessorCount: *value = p->multiProcessorCount; return true;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p->maxThreadsPerMultiProcessor; return true;
        case cudaDevAttrMaxBlocksPerMultiprocessor: *value = p->maxBlocksPerMultiProcessor; return true;
        case cudaDevAttrL2CacheSize: *value = p->l2CacheSize; return true;
        case cudaDevAttrComputeCapabilityMajor: *value = p->major; return true;
        case cudaDevAttrComputeCapabilityMinor: *value = p->minor; return true;
        case cudaDevAttrGlobalMemoryBusWidth: *value = p->memoryBusWidth; return true;
        case cudaDevAttrTextureAlignment: *value = (int)p->textureAlignment; return true;
        case cudaDevAttrPciBusId: *value = p->pciBusID; return true;
        case cudaDevAttrAsyncEngineCount: *value = p->asyncEngineCount; return true;
        case cudaDevAttrClockRate: *value = 1500000; return true;        /* kHz; times, which nobody reads here */
        case cudaDevAttrMemoryClockRate: *value = 1500000; return true;
        case cudaDevAttrUnifiedAddressing:
        case cudaDevAttrManagedMemory:
        case cudaDevAttrConcurrentKernels:
        case cudaDevAttrCooperativeLaunch:
        case cudaDevAttrConcurrentManagedAccess:
        case cudaDevAttrMemoryPoolsSupported:
        case cudaDevAttrCanMapHostMemory: *value = 1; return true;
        case cudaDevAttrIntegrated:
        case cudaDevAttrPciDeviceId:
        case cudaDevAttrPciDomainId:
        case cudaDevAttrPageableMemoryAccess:
        case cudaDevAttrTccDriver:
        case cudaDevAttrEccEnabled:
        case cudaDevAttrComputeMode: *value = 0; return true;
        default: return false;
    }
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr number, int device) {
    struct cudaDeviceProp p;
    cudaError_t error = cudaGetDeviceProperties(&p, device);
    if (error) return error;
    if (!attribute(value, (int)number, &p)) {
        char name[64];
        snprintf(name, sizeof name, "cudaDeviceGetAttribute for attribute %d", (int)number);
        emulated_unknown("libcudart", name);
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int room, int device) {
    snprintf(text, room, "0000:%02x:00.0", device + 1);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    *can = device != peer && emulated_card_at(device) && emulated_card_at(peer);
    return cudaSuccess;
}

/* ---- errors ---- */

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last;
    last = cudaSuccess;
    return error;
}
cudaError_t cudaPeekAtLastError(void) { return last; }

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
};

static const char *error_words(cudaError_t error, bool name) {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].error == error) return name ? errors[i].name : errors[i].text;
    return name ? "cudaErrorUnknown" : "unknown error";
}
const char *cudaGetErrorName(cudaError_t error) { return error_words(error, true); }
const char *cudaGetErrorString(cudaError_t error) { return error_words(error, false); }

/* ---- memory ---- */

cudaError_t cudaMalloc(void **address, size_t bytes) {
    *address = NULL;
    if (!emulated_cards()) return said(cudaErrorNoDevice);
    if (!bytes) return cudaSuccess;
    *address = emulated_take(emulated_current(), bytes);
    return said(*address ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void *address) {
    return said(!address || emulated_give(address) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaMallocAsync(void **address, size_t bytes, cudaStream_t stream) {
    (void)stream;
    return cudaMalloc(address, bytes);
}
cudaError_t cudaFreeAsync(void *address, cudaStream_t stream) {
    (void)stream;
    return cudaFree(address);
}

cudaError_t cudaMemGetInfo(size_t *unused, size_t *total) {
    const emulated_card *card = emulated_card_at(emulated_current());
    if (!card) return said(cudaErrorNoDevice);
    *unused = emulated_free(emulated_current());
    *total = card->total_bytes;
    return cudaSuccess;
}

static pthread_mutex_t pinned_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    char *start;
    size_t bytes;
} *pinned;
static size_t pinned_count, pinned_room;

static void pin(void *start, size_t bytes) {
    pthread_mutex_lock(&pinned_lock);
    if (pinned_count == pinned_room) pinned = realloc(pinned, (pinned_room = 2 * pinned_room + 64) * sizeof *pinned);
    if (!pinned) abort();
    pinned[pinned_count].start = start;
    pinned[pinned_count++].bytes = bytes;
    pthread_mutex_unlock(&pinned_lock);
}

static void unpin(const void *start) {
    pthread_mutex_lock(&pinned_lock);
    for (size_t i = 0; i < pinned_count; i++)
        if (pinned[i].start == start) {
            pinned[i] = pinned[--pinned_count];
            break;
        }
    pthread_mutex_unlock(&pinned_lock);
}

static bool is_pinned(const void *address) {
    bool inside = false;
    pthread_mutex_lock(&pinned_lock);
    for (size_t i = 0; i < pinned_count && !inside; i++)
        inside = (char *)address >= pinned[i].start && (char *)address < pinned[i].start + pinned[i].bytes;
    pthread_mutex_unlock(&pinned_lock);
    return inside;
}

cudaError_t cudaHostAlloc(void **address, size_t bytes, unsigned flags) {
    (void)flags;
    if (posix_memalign(address, 4096, bytes ? bytes : 1)) return said(cudaErrorMemoryAllocation);
    pin(*address, bytes);
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *address) {
    unpin(address);
    free(address);
    return cudaSuccess;
}
cudaError_t cudaHostRegister(void *address, size_t bytes, unsigned flags) {
    (void)flags;
    pin(address, bytes);
    return cudaSuccess;
}
cudaError_t cudaHostUnregister(void *address) {
    unpin(address);
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *address) {
    int card = emulated_owner(address);
    bool host = card < 0 && is_pinned(address);
    memset(attributes, 0, sizeof *attributes);
    attributes->type = card >= 0 ? cudaMemoryTypeDevice : host ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    attributes->device = card >= 0 ? card : host ? 0 : -2;
    attributes->devicePointer = card >= 0 || host ? (void *)address : NULL;
    attributes->hostPointer = card < 0 ? (void *)address : NULL;
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    (void)kind;
    emulated_copy(to, from, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
    (void)stream;
    return cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaMemcpyPeerAsync(void *to, int to_card, const void *from, int from_card, size_t bytes, cudaStream_t s) {
    (void)to_card, (void)from_card, (void)s;
    emulated_copy(to, from, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
    (void)kind, (void)stream;
    for (size_t row = 0; row < height; row++)
        emulated_copy((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
    return cudaSuccess;
}
cudaError_t cudaMemset(void *to, int value, size_t bytes) {
    emulated_fill(to, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    (void)stream;
    return cudaMemset(to, value, bytes);
}

/* A variable of device code: it has an address, and nobody ever reads it. */
cudaError_t cudaGetSymbolAddress(void **address, const void *symbol) {
    *address = (void *)symbol;
    return cudaSuccess;
}
NOTHING(cudaMemcpyToSymbol)

/* ---- streams, events, capture ---- */

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    *stream = emulated_handle();
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    (void)flags;
    return cudaStreamCreate(stream);
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    (void)flags, (void)priority;
    return cudaStreamCreate(stream);
}
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) {
    (void)stream;
    *priority = 0;
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) {
    *event = emulated_handle();
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    (void)flags;
    return cudaEventCreate(event);
}
/* Long enough that a benchmark (triton.testing.do_bench) repeats a kernel only a few times. */
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    (void)from, (void)to;
    *milliseconds = 50.0f;
    return cudaSuccess;
}
NOTHING(cudaDeviceSynchronize)
NOTHING(cudaStreamSynchronize)
NOTHING(cudaStreamQuery)
NOTHING(cudaStreamDestroy)
NOTHING(cudaStreamWaitEvent)
NOTHING(cudaEventDestroy)
NOTHING(cudaEventQuery)
NOTHING(cudaEventRecord)
NOTHING(cudaEventRecordWithFlags)
NOTHING(cudaEventSynchronize)
NOTHING(cudaThreadExchangeStreamCaptureMode)
NOTHING(cudaProfilerStart)
NOTHING(cudaProfilerStop)
NOTHING(cudaDeviceEnablePeerAccess)

static cudaStream_t captured; /* one capture at a time, as PyTorch makes them */
static bool capturing;
static unsigned long long captures;
static cudaGraph_t captured_graph;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    (void)mode;
    captured = stream;
    captured_graph = emulated_handle();
    capturing = true;
    captures++;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    (void)stream;
    *graph = captured_graph;
    capturing = false;
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    *status = capturing && stream == captured ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                                     size_t *count) {
    cudaStreamIsCapturing(stream, status);
    if (id) *id = captures;
    if (graph) *graph = captured_graph;
    if (nodes) *nodes = NULL;
    if (edges) *edges = NULL;
    if (count) *count = 0;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *made, cudaGraph_t graph, unsigned long long flags) {
    (void)graph, (void)flags;
    *made = emulated_handle();
    return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) {
    (void)graph, (void)nodes;
    *count = 1; /* PyTorch warns of a graph without nodes */
    return cudaSuccess;
}
NOTHING(cudaGraphDestroy)
NOTHING(cudaGraphExecDestroy)
NOTHING(cudaGraphLaunch)

/* ---- kernels ---- */

/* The sizes of a kernel are those of the code that the card would run; CUB refuses one the wheel was not built for. */
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function) {
    (void)function;
    const emulated_card *card = emulated_card_at(emulated_current());
    if (!card) return said(cudaErrorNoDevice);
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = THREADS_PER_BLOCK;
    attributes->numRegs = 64;
    attributes->ptxVersion = attributes->binaryVersion = card->code;
    attributes->maxDynamicSharedSizeBytes = (int)card->shared_optin_bytes;
    return cudaSuccess;
}
NOTHING(cudaFuncSetAttribute)
NOTHING(cudaKernelSetAttributeForDevice)

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int threads,
                                                                   size_t shared_bytes, unsigned flags) {
    (void)function, (void)flags;
    const emulated_card *card = emulated_card_at(emulated_current());
    if (!card) return said(cudaErrorNoDevice);
    int fit = threads > 0 ? threads_per_multiprocessor(card) / threads : 1;
    if (shared_bytes && fit > (int)(shared_per_multiprocessor(card) / shared_bytes))
        fit = (int)(shared_per_multiprocessor(card) / shared_bytes);
    int most = blocks_per_multiprocessor(card);
    *blocks = fit < 1 ? 1 : fit > most ? most : fit;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function, int threads, size_t bytes) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, bytes, 0);
}

cudaError_t cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **parameters, size_t bytes, cudaStream_t s) {
    (void)f, (void)grid, (void)block, (void)bytes, (void)s;
    emulated_launch(parameters);
    return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t f, dim3 grid, dim3 block, void **parameters, size_t bytes, cudaStream_t s) {
    return cudaLaunchKernel((const void *)f, grid, block, parameters, bytes, s);
}
cudaError_t cudaLaunchCooperativeKernel(const void *f, dim3 grid, dim3 block, void **parameters, size_t bytes,
                                        cudaStream_t s) {
    return cudaLaunchKernel(f, grid, block, parameters, bytes, s);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *f, void **parameters) {
    (void)config, (void)f;
    emulated_launch(parameters);
    return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
    (void)stream;
    function(data);
    return cudaSuccess;
}
cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function, void *data, unsigned flags) {
    (void)flags;
    function(stream, cudaSuccess, data);
    return cudaSuccess;
}

/* ---- what the compiler's own code calls ---- */

static __thread struct {
    dim3 grid, block;
    size_t bytes;
    void *stream;
} configured;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t bytes, void *stream) {
    configured.grid = grid;
    configured.block = block;
    configured.bytes = bytes;
    configured.stream = stream;
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *bytes, void *stream) {
    *grid = configured.grid;
    *block = configured.block;
    *bytes = configured.bytes;
    *(void **)stream = configured.stream;
    return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
    *kernel = (cudaKernel_t)function;
    return cudaSuccess;
}
void **__cudaRegisterFatBinary(void *binary) {
    (void)binary;
    static void *handle[1];
    return handle;
}
NOTHING(__cudaRegisterFatBinaryEnd)
NOTHING(__cudaRegisterFunction)
NOTHING(__cudaRegisterVar)
NOTHING(__cudaUnregisterFatBinary)
char __cudaInitModule(void **binary) {
    (void)binary;
    return 1;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned cuda, unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result) {
    (void)flags, (void)cuda;
    char versioned[256];
    *function = NULL;
    for (int version_number = 4; version_number > 1 && !*function; version_number--) {
        snprintf(versioned, sizeof versioned, "%s_v%d", name, version_number);
        *function = dlsym(RTLD_DEFAULT, versioned);
    }
    if (!*function) *function = dlsym(RTLD_DEFAULT, name);
    if (result) *result = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
