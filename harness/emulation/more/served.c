/* What servers call beside what PyTorch and Triton do. Preloaded before the stubs, whose source is part of what stored
 * campaigns are identified by and stays as it is. */

/* Pinned memory is seen by the card at the host's own address, as where both share one address space. */
int cudaHostGetDevicePointer(void **of_card, void *of_host, unsigned flags) {
    (void)flags;
    *of_card = of_host;
    return 0;
}
