/* cuDNN of the pretended cards: its graph interface, with one plan for every graph. */
#include <cudnn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "card.h"

size_t cudnnGetVersion(void) { return CUDNN_VERSION; }
size_t cudnnGetCudartVersion(void) { return EMULATED_CUDART_VERSION; }
cudnnStatus_t cudnnGetProperty(libraryPropertyType type, int *value) {
    *value = type == MAJOR_VERSION ? CUDNN_MAJOR : type == MINOR_VERSION ? CUDNN_MINOR : CUDNN_PATCHLEVEL;
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) {
    *handle = emulated_handle();
    return CUDNN_STATUS_SUCCESS;
}
const char *cudnnGetErrorString(cudnnStatus_t status) { return status ? "CUDNN_STATUS_UNKNOWN" : "CUDNN_STATUS_SUCCESS"; }
void cudnnGetLastErrorString(char *message, size_t room) {
    if (room) *message = 0;
}
cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t *stream) {
    (void)handle;
    *stream = NULL;
    return CUDNN_STATUS_SUCCESS;
}
NOTHING(cudnnDestroy)
NOTHING(cudnnSetStream)

/* ---- graphs: descriptors that remember their parts, so that a plan can be asked for its workspace ---- */

#define MOST_PARTS 64
#define MOST_DIMENSIONS 8

typedef struct descriptor {
    int type, parts, dimensions;
    struct descriptor *part[MOST_PARTS];
    int64_t size[MOST_DIMENSIONS];
} descriptor;

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *made) {
    descriptor *d = calloc(1, sizeof *d);
    if (!d) return CUDNN_STATUS_ALLOC_FAILED;
    d->type = (int)type;
    *made = d;
    return CUDNN_STATUS_SUCCESS;
}
/* A plan is asked after the graph's owner let go of its parts, so these stay: some kilobytes a graph, which PyTorch
 * keeps anyway. A pack of pointers is made for every call. */
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t on) {
    descriptor *d = on;
    if (d && d->type == CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR) free(d);
    return CUDNN_STATUS_SUCCESS;
}
NOTHING(cudnnBackendFinalize)

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t on, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    descriptor *d = on;
    if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR)
        for (int64_t i = 0; i < count && d->parts < MOST_PARTS; i++) d->part[d->parts++] = ((descriptor **)values)[i];
    if (name == CUDNN_ATTR_TENSOR_DIMENSIONS && count <= MOST_DIMENSIONS) {
        memcpy(d->size, values, (size_t)count * sizeof *d->size);
        d->dimensions = (int)count;
    }
    if (name == CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS) emulated_words(values, (int)count);
    return CUDNN_STATUS_SUCCESS;
}

static size_t element(cudnnBackendAttributeType_t type) {
    switch (type) {
        case CUDNN_TYPE_INT64:
        case CUDNN_TYPE_DOUBLE:
        case CUDNN_TYPE_VOID_PTR: return 8;
        case CUDNN_TYPE_BOOLEAN:
        case CUDNN_TYPE_CHAR: return 1;
        default: return 4;
    }
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const on, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t wanted, int64_t *count, void *values) {
    (void)on, (void)name;
    if (count) *count = 1;
    /* Descriptors are the caller's, to be filled in: an engine configuration, and nothing of it is looked at. */
    if (values && wanted > 0 && type != CUDNN_TYPE_BACKEND_DESCRIPTOR) memset(values, 0, element(type));
    return CUDNN_STATUS_SUCCESS;
}
NOTHING(cudnnBackendExecute)
