/* NVML of the pretended cards: one process on each, this one. Its structures are ours, in the layout that NVML's
 * callers (pynvml, PyTorch) write down. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "card.h"

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };

typedef struct {
    unsigned pid;
    unsigned long long bytes;
    unsigned instance, compute_instance;
} process;

typedef struct {
    unsigned pid;
    unsigned long long bytes;
} process_1;

typedef struct {
    unsigned long long total, unused, used;
} memory;

static void *handle_of(int index) { return (void *)(uintptr_t)(index + 1); }
static int index_of(void *handle) { return (int)(uintptr_t)handle - 1; }

static int by_index(unsigned index, void **handle) {
    if (!emulated_card_at((int)index)) return INVALID_ARGUMENT;
    *handle = handle_of((int)index);
    return SUCCESS;
}

static void uuid_text(char *text, size_t room, int index) { emulated_uuid_text(text, room, emulated_uuid(index)); }

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = (unsigned)emulated_cards();
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { return by_index(index, handle); }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    char known[64];
    for (int i = 0; i < emulated_cards(); i++) {
        uuid_text(known, sizeof known, i);
        if (!strcmp(known, uuid)) return by_index((unsigned)i, handle);
    }
    return NOT_FOUND;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *text, void **handle) {
    unsigned domain, bus;
    if (sscanf(text, "%x:%x:", &domain, &bus) != 2 || !bus) return INVALID_ARGUMENT;
    return by_index(bus - 1, handle);
}
int nvmlDeviceGetIndex(void *handle, unsigned *index) {
    *index = (unsigned)index_of(handle);
    return SUCCESS;
}
int nvmlDeviceGetUUID(void *handle, char *text, unsigned room) {
    uuid_text(text, room, index_of(handle));
    return SUCCESS;
}
int nvmlDeviceGetName(void *handle, char *text, unsigned room) {
    snprintf(text, room, "%s", emulated_card_at(index_of(handle))->name);
    return SUCCESS;
}
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    *major = emulated_card_at(index_of(handle))->major;
    *minor = emulated_card_at(index_of(handle))->minor;
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(void *handle, memory *info) {
    int index = index_of(handle);
    info->total = emulated_card_at(index)->total_bytes;
    info->unused = emulated_free(index);
    info->used = info->total - info->unused;
    return SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process *processes) {
    unsigned room = *count;
    int index = index_of(handle);
    *count = 1;
    if (!room || !processes) return INSUFFICIENT_SIZE;
    processes[0] = (process){(unsigned)getpid(), emulated_used(index) + emulated_card_at(index)->outside_bytes,
                             0xffffffffu, 0xffffffffu};
    return SUCCESS;
}
/* The first form, which PyTorch's out-of-memory message asks: two fields a process. */
int nvmlDeviceGetComputeRunningProcesses(void *handle, unsigned *count, process_1 *processes) {
    process one;
    unsigned room = *count;
    *count = 1;
    if (!room || !processes) return INSUFFICIENT_SIZE;
    nvmlDeviceGetComputeRunningProcesses_v3(handle, &room, &one);
    processes[0] = (process_1){one.pid, one.bytes};
    return SUCCESS;
}
int nvmlDeviceGetMigMode(void *handle, unsigned *now, unsigned *pending) {
    (void)handle;
    *now = *pending = 0;
    return SUCCESS;
}
int nvmlSystemGetDriverVersion(char *text, unsigned room) {
    snprintf(text, room, "none (emulated)");
    return SUCCESS;
}
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    *version = EMULATED_CUDART_VERSION;
    return SUCCESS;
}
const char *nvmlErrorString(int error) { return error ? "not there on an emulated card" : "success"; }

static int not_supported(void) { return NOT_SUPPORTED; }
int nvmlDeviceGetNvLinkRemoteDeviceType(void) { return not_supported(); }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void) { return not_supported(); }
int nvmlDeviceGetNvLinkState(void) { return not_supported(); }
int nvmlDeviceGetGpuFabricInfoV(void) { return not_supported(); }
int nvmlDeviceGetP2PStatus(void) { return not_supported(); }
NOTHING(nvmlInit_v2)
NOTHING(nvmlInitWithFlags)
NOTHING(nvmlShutdown)
