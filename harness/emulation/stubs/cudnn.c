/* cuDNN of the pretended cards: its graph interface, with one plan for every graph. */
#include <cudnn.h>
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

/* ---- graphs: descriptors are names; every graph has one plan, whose workspace is 0 ---- */

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *made) {
    (void)type;
    *made = emulated_handle();
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t on, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    (void)on, (void)type;
    if (name == CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS) emulated_words(values, (int)count);
    return CUDNN_STATUS_SUCCESS;
}
NOTHING(cudnnBackendDestroyDescriptor)
NOTHING(cudnnBackendFinalize)

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
