/* The pretended cards of this process: what all stub libraries share. Nothing here is a vendor's.
 *
 * A card has a name, sizes and memory; its memory is address space without access (PROT_NONE), so that nothing else
 * can lie there and a host that reads it stops at once. What is copied to a card and not handed to a kernel since is
 * kept, and given back when it is read; any other read gives zeros and is told to whoever asked to be told.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    char name[256];
    int major, minor, multiprocessors;
    int code; /* the architecture in the wheel that this card would run, such as 86 for a card of capability 8.9 */
    size_t total_bytes, outside_bytes, shared_optin_bytes, l2_bytes;
} emulated_card;

int emulated_cards(void);
const emulated_card *emulated_card_at(int index);
const char *emulated_uuid(int index); /* 16 bytes */
void emulated_uuid_text(char *text, size_t room, const char *uuid);

int emulated_current(void);
bool emulated_select(int index);

/* Memory of a card. take: NULL if the card is full. owner: the card of an address, -1 for the host's. */
void *emulated_take(int index, size_t bytes);
bool emulated_give(void *address);
int emulated_owner(const void *address);
bool emulated_range(const void *address, uintptr_t *base, size_t *bytes);
size_t emulated_used(int index);
size_t emulated_free(int index);

/* Expandable segments: address space first, memory later. */
void *emulated_reserve(size_t bytes);
bool emulated_unreserve(void *address);
bool emulated_charge(int index, size_t bytes);
void emulated_refund(int index, size_t bytes);
void emulated_map(void *address, size_t bytes, int index);
void emulated_unmap(void *address, size_t bytes);

/* Values. handed: a kernel may have written there. launch: the same of everything that a kernel's parameters name. */
void emulated_copy(void *to, const void *from, size_t bytes);
void emulated_fill(void *to, int value, size_t bytes);
void emulated_handed(const void *address);
void emulated_launch(void **parameters);
void emulated_words(const uintptr_t *words, int count);
void emulated_on_guess(void (*told)(size_t bytes));
void emulated_ask_block(uintptr_t (*asked)(uintptr_t address)); /* start of the tensor that an address is part of */

void *emulated_handle(void); /* a new opaque handle */
_Noreturn void emulated_unknown(const char *library, const char *name);

#define GRANULARITY ((size_t)2 << 20) /* what the driver gives memory in */

/* Calls that may do nothing, and calls that compute: their outputs are among their arguments, wherever these lie. The
 * C name differs from the symbol's, so that a vendor's declaration of other arguments is no contradiction. */
#define NOTHING(name)                     \
    int nothing_##name(void) __asm__(#name); \
    int nothing_##name(void) { return 0; }

#define WORD uintptr_t
#define WORDS(a, b, c, d, e, f, g, h) WORD a, WORD b, WORD c, WORD d, WORD e, WORD f, WORD g, WORD h
#define ARGUMENTS                                                                       \
    WORDS(a0, a1, a2, a3, a4, a5, a6, a7), WORDS(a8, a9, a10, a11, a12, a13, a14, a15), \
        WORDS(a16, a17, a18, a19, a20, a21, a22, a23)
#define COMPUTES(name)                                                                                             \
    int computes_##name(ARGUMENTS) __asm__(#name);                                                                 \
    int computes_##name(ARGUMENTS) {                                                                               \
        WORD words[] = {a0,  a1,  a2,  a3,  a4,  a5,  a6,  a7,  a8,  a9,  a10, a11,                                 \
                        a12, a13, a14, a15, a16, a17, a18, a19, a20, a21, a22, a23};                                \
        emulated_words(words, sizeof words / sizeof *words);                                                       \
        return 0;                                                                                                  \
    }
