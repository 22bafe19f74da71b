/* See card.h. The cards come from the variable EMULATED_CARDS, a line a card, "field=value" joined by ";". */
#define _GNU_SOURCE
#include "card.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MOST_CARDS 16
#define ARENA ((size_t)2 << 40)          /* addresses of one card; memory given back is used again */
#define MOST_KEPT ((size_t)1 << 20)      /* a larger copy to a card is not kept: weights are nobody's branch */
#define MOST_KEPT_TOTAL ((size_t)256 << 20)
#define MOST_PARAMETERS 4096             /* bytes of a kernel's last parameter that are looked through */

typedef struct {
    uintptr_t start;
    size_t bytes;
    int card;
} range;

typedef struct {
    range *items;
    size_t count, room;
} ranges;

typedef struct {
    uintptr_t start;
    size_t bytes;
    unsigned char *values;
    uintptr_t below; /* the highest address below it, in its segment, that a kernel was given since */
} kept_copy;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static emulated_card cards[MOST_CARDS];
static char uuids[MOST_CARDS][16];
static uintptr_t arenas[MOST_CARDS], cursors[MOST_CARDS];
static size_t used[MOST_CARDS];
static int count;
static ranges segments;  /* memory that was taken, by address */
static ranges reserved;  /* address space for expandable segments; card -1 until memory is mapped there */
static ranges mapped;
static kept_copy *kept;
static size_t kept_count, kept_room, kept_bytes;
static void (*guess)(size_t);
static uintptr_t (*block)(uintptr_t);
static __thread int current;

static _Noreturn void stop(const char *why) {
    fprintf(stderr, "emulated card: %s\n", why);
    abort();
}

static void *grown(void *items, size_t *room, size_t count_now, size_t size) {
    if (count_now < *room) return items;
    *room = *room ? 2 * *room : 1024;
    void *more = realloc(items, *room * size);
    if (!more) stop("the host has no memory left for the pretended cards' books");
    return more;
}

/* Index of the first range that ends behind the address. */
static size_t first_behind(const ranges *all, uintptr_t address) {
    size_t low = 0, high = all->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (all->items[middle].start + all->items[middle].bytes <= address) low = middle + 1;
        else high = middle;
    }
    return low;
}

static range *containing(const ranges *all, uintptr_t address) {
    size_t i = first_behind(all, address);
    return i < all->count && all->items[i].start <= address ? &all->items[i] : NULL;
}

static void insert(ranges *all, range item) {
    all->items = grown(all->items, &all->room, all->count, sizeof *all->items);
    size_t i = first_behind(all, item.start);
    memmove(&all->items[i + 1], &all->items[i], (all->count - i) * sizeof *all->items);
    all->items[i] = item;
    all->count++;
}

static void erase(ranges *all, range *item) {
    size_t i = item - all->items;
    memmove(item, item + 1, (all->count - i - 1) * sizeof *item);
    all->count--;
}

/* ---- the cards ---- */

static void set_field(emulated_card *card, const char *field, const char *value) {
    if (!strcmp(field, "name")) snprintf(card->name, sizeof card->name, "%s", value);
    else if (!strcmp(field, "major")) card->major = atoi(value);
    else if (!strcmp(field, "minor")) card->minor = atoi(value);
    else if (!strcmp(field, "multiprocessors")) card->multiprocessors = atoi(value);
    else if (!strcmp(field, "code")) card->code = atoi(value);
    else if (!strcmp(field, "total_bytes")) card->total_bytes = strtoull(value, NULL, 10);
    else if (!strcmp(field, "outside_bytes")) card->outside_bytes = strtoull(value, NULL, 10);
    else if (!strcmp(field, "shared_optin_bytes")) card->shared_optin_bytes = strtoull(value, NULL, 10);
    else if (!strcmp(field, "l2_bytes")) card->l2_bytes = strtoull(value, NULL, 10);
    else stop("EMULATED_CARDS has a field that is not known");
}

void emulated_uuid_text(char *text, size_t room, const char *uuid) {
    const unsigned char *u = (const unsigned char *)uuid;
    snprintf(text, room, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2],
             u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

static void parse_card(char *line, int index) {
    char *rest = NULL;
    for (char *part = strtok_r(line, ";", &rest); part; part = strtok_r(NULL, ";", &rest)) {
        char *equals = strchr(part, '=');
        if (!equals) stop("EMULATED_CARDS has a part without '='");
        *equals = 0;
        set_field(&cards[index], part, equals + 1);
    }
    memcpy(uuids[index], "emulated card ", 14);
    uuids[index][14] = 0;
    uuids[index][15] = (char)(index + 1);
}

/* One name of CUDA_VISIBLE_DEVICES, a number or the beginning of a UUID: its card, or -1. */
static int named(const char *name, size_t length, int there, char (*all_uuids)[16]) {
    char *end, text[64];
    long index = strtol(name, &end, 10);
    if (end == name + length && end != name) return index >= 0 && index < there ? (int)index : -1;
    for (int i = 0; i < there; i++) {
        emulated_uuid_text(text, sizeof text, all_uuids[i]);
        if (length > 4 && !strncmp(text, name, length)) return i;
    }
    return -1;
}

/* As CUDA does: the cards that CUDA_VISIBLE_DEVICES names, in its order, up to the first that is not there. */
static void choose_visible(void) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (!visible) return;
    emulated_card all[MOST_CARDS];
    char all_uuids[MOST_CARDS][16];
    memcpy(all, cards, sizeof all);
    memcpy(all_uuids, uuids, sizeof all_uuids);
    int there = count;
    count = 0;
    while (*visible && count < MOST_CARDS) {
        size_t length = strcspn(visible, ",");
        int index = named(visible, length, there, all_uuids);
        if (index < 0) break;
        cards[count] = all[index];
        memcpy(uuids[count++], all_uuids[index], 16);
        visible += length + (visible[length] == ',');
    }
}

static void begin(void) {
    const char *given = getenv("EMULATED_CARDS");
    char *text = given ? strdup(given) : NULL, *rest = NULL;
    for (char *line = text ? strtok_r(text, "\n", &rest) : NULL; line; line = strtok_r(NULL, "\n", &rest)) {
        if (count == MOST_CARDS) stop("more cards than 16");
        parse_card(line, count++);
    }
    free(text);
    choose_visible();
}

int emulated_cards(void) {
    pthread_once(&once, begin);
    return count;
}

const emulated_card *emulated_card_at(int index) { return index >= 0 && index < emulated_cards() ? &cards[index] : NULL; }
const char *emulated_uuid(int index) { return uuids[index]; }
int emulated_current(void) { return current; }

bool emulated_select(int index) {
    if (!emulated_card_at(index)) return false;
    current = index;
    return true;
}

/* ---- memory ---- */

static size_t rounded(size_t bytes) { return (bytes + GRANULARITY - 1) / GRANULARITY * GRANULARITY; }

static size_t available(int index) {
    size_t gone = used[index] + cards[index].outside_bytes;
    return gone < cards[index].total_bytes ? cards[index].total_bytes - gone : 0;
}

static uintptr_t addresses(size_t bytes, uintptr_t hint) {
    void *p = mmap((void *)hint, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) stop("the host gives no address space (is there a limit, ulimit -v?)");
    return (uintptr_t)p;
}

/* Next-fit: behind the last one taken, and from the start of the arena again once its end is reached. */
static uintptr_t place(int index, size_t bytes) {
    uintptr_t end = arenas[index] + ARENA, at = cursors[index];
    for (int round = 0; round < 2; round++) {
        for (size_t i = first_behind(&segments, at); at + bytes <= end; i++) {
            if (i == segments.count || segments.items[i].start >= at + bytes) return at;
            at = segments.items[i].start + segments.items[i].bytes;
        }
        at = arenas[index];
    }
    stop("the pretended card's address space is full");
}

void *emulated_take(int index, size_t bytes) {
    size_t size = rounded(bytes);
    void *address = NULL;
    pthread_mutex_lock(&lock);
    if (!arenas[index]) cursors[index] = arenas[index] = addresses(ARENA, ((uintptr_t)0x20 << 40) + index * ARENA);
    if (size <= available(index)) {
        uintptr_t at = place(index, size);
        insert(&segments, (range){at, size, index});
        cursors[index] = at + size;
        used[index] += size;
        address = (void *)at;
    }
    pthread_mutex_unlock(&lock);
    return address;
}

static void forget(uintptr_t start, size_t bytes);

bool emulated_give(void *address) {
    pthread_mutex_lock(&lock);
    range *segment = containing(&segments, (uintptr_t)address);
    bool known = segment && segment->start == (uintptr_t)address;
    if (known) {
        forget(segment->start, segment->bytes);
        used[segment->card] -= segment->bytes;
        erase(&segments, segment);
    }
    pthread_mutex_unlock(&lock);
    return known;
}

static range *found(uintptr_t address) {
    range *segment = containing(&segments, address);
    return segment ? segment : containing(&mapped, address);
}

static int owner(uintptr_t address) {
    for (int i = 0; i < count; i++)
        if (arenas[i] && address >= arenas[i] && address < arenas[i] + ARENA) return i;
    range *segment = containing(&mapped, address);
    return segment ? segment->card : -1;
}

int emulated_owner(const void *address) {
    pthread_mutex_lock(&lock);
    int card = owner((uintptr_t)address);
    pthread_mutex_unlock(&lock);
    return card;
}

bool emulated_range(const void *address, uintptr_t *base, size_t *bytes) {
    pthread_mutex_lock(&lock);
    range *segment = found((uintptr_t)address);
    if (segment) *base = segment->start, *bytes = segment->bytes;
    pthread_mutex_unlock(&lock);
    return segment != NULL;
}

size_t emulated_used(int index) { return used[index]; }

size_t emulated_free(int index) {
    pthread_mutex_lock(&lock);
    size_t bytes = available(index);
    pthread_mutex_unlock(&lock);
    return bytes;
}

void *emulated_reserve(size_t bytes) {
    pthread_mutex_lock(&lock);
    uintptr_t at = addresses(bytes, (uintptr_t)0x48 << 40);
    insert(&reserved, (range){at, bytes, -1});
    pthread_mutex_unlock(&lock);
    return (void *)at;
}

bool emulated_unreserve(void *address) {
    pthread_mutex_lock(&lock);
    range *space = containing(&reserved, (uintptr_t)address);
    if (space) {
        munmap((void *)space->start, space->bytes);
        erase(&reserved, space);
    }
    pthread_mutex_unlock(&lock);
    return space != NULL;
}

bool emulated_charge(int index, size_t bytes) {
    pthread_mutex_lock(&lock);
    bool fits = rounded(bytes) <= available(index);
    if (fits) used[index] += rounded(bytes);
    pthread_mutex_unlock(&lock);
    return fits;
}

void emulated_refund(int index, size_t bytes) {
    pthread_mutex_lock(&lock);
    used[index] -= rounded(bytes);
    pthread_mutex_unlock(&lock);
}

void emulated_map(void *address, size_t bytes, int index) {
    pthread_mutex_lock(&lock);
    insert(&mapped, (range){(uintptr_t)address, bytes, index});
    pthread_mutex_unlock(&lock);
}

void emulated_unmap(void *address, size_t bytes) {
    pthread_mutex_lock(&lock);
    uintptr_t start = (uintptr_t)address;
    forget(start, bytes);
    size_t i = first_behind(&mapped, start);
    while (i < mapped.count && mapped.items[i].start < start + bytes) erase(&mapped, &mapped.items[i]);
    pthread_mutex_unlock(&lock);
}

/* ---- values ---- */

static size_t first_kept(uintptr_t address) {
    size_t low = 0, high = kept_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (kept[middle].start + kept[middle].bytes <= address) low = middle + 1;
        else high = middle;
    }
    return low;
}

static void drop(size_t i) {
    kept_bytes -= kept[i].bytes;
    free(kept[i].values);
    memmove(&kept[i], &kept[i + 1], (--kept_count - i) * sizeof *kept);
}

static void forget(uintptr_t start, size_t bytes) {
    size_t i = first_kept(start);
    while (i < kept_count && kept[i].start < start + bytes) drop(i);
}

static void keep(uintptr_t start, const void *values, int value, size_t bytes) {
    forget(start, bytes);
    if (!bytes || bytes > MOST_KEPT || kept_bytes + bytes > MOST_KEPT_TOTAL) return;
    unsigned char *copy = malloc(bytes);
    if (!copy) return;
    if (values) memcpy(copy, values, bytes);
    else memset(copy, value, bytes);
    kept = grown(kept, &kept_room, kept_count, sizeof *kept);
    size_t i = first_kept(start);
    memmove(&kept[i + 1], &kept[i], (kept_count - i) * sizeof *kept);
    kept[i] = (kept_copy){start, bytes, copy, 0};
    kept_count++;
    kept_bytes += bytes;
}

/* Whether all of it was kept; then it is written to the host's memory at `to`, and `below` is the highest address under
 * it that a kernel was given since. */
static bool known(void *to, uintptr_t start, size_t bytes, uintptr_t *below) {
    uintptr_t at = start;
    *below = 0;
    for (size_t i = first_kept(start); at < start + bytes; i++) {
        if (i == kept_count || kept[i].start > at) return false;
        at = kept[i].start + kept[i].bytes;
        if (kept[i].below > *below) *below = kept[i].below;
    }
    for (size_t i = first_kept(start), done = 0; done < bytes; i++) {
        size_t skipped = start + done - kept[i].start, part = kept[i].bytes - skipped;
        if (part > bytes - done) part = bytes - done;
        memcpy((char *)to + done, kept[i].values + skipped, part);
        done += part;
    }
    return true;
}

/* A kernel that was given a tensor's start may have written all of it, also a part that was copied there: whether the
 * two are of one tensor, only the program's allocator knows. Asked without the lock, since it is Python that answers. */
static bool overwritten(uintptr_t start, uintptr_t below) { return below && (!block || block(start) <= below); }

static void copy_to_card(uintptr_t to, uintptr_t from, size_t bytes, bool from_card) {
    uintptr_t below = 0;
    if (!from_card) {
        keep(to, (const void *)from, 0, bytes);
        return;
    }
    void *between = bytes <= MOST_KEPT ? malloc(bytes) : NULL;
    if (between && known(between, from, bytes, &below) && !below) keep(to, between, 0, bytes);
    else forget(to, bytes);
    free(between);
}

void emulated_copy(void *to, const void *from, size_t bytes) {
    if (!bytes) return;
    uintptr_t below = 0;
    pthread_mutex_lock(&lock);
    bool to_card = owner((uintptr_t)to) >= 0, from_card = owner((uintptr_t)from) >= 0, guessed = false;
    if (to_card) copy_to_card((uintptr_t)to, (uintptr_t)from, bytes, from_card);
    else if (from_card) guessed = !known(to, (uintptr_t)from, bytes, &below);
    else memmove(to, from, bytes);
    pthread_mutex_unlock(&lock);
    if (to_card || !from_card) return;
    if (!guessed && !overwritten((uintptr_t)from, below)) return;
    memset(to, 0, bytes);
    if (guess) guess(bytes);
}

void emulated_fill(void *to, int value, size_t bytes) {
    if (emulated_owner(to) < 0) {
        memset(to, value, bytes);
        return;
    }
    pthread_mutex_lock(&lock);
    keep((uintptr_t)to, NULL, value, bytes);
    pthread_mutex_unlock(&lock);
}

/* A copy inside which the address lies may be overwritten; of those above it in the segment it is noted. */
static void handed(uintptr_t address) {
    size_t i = first_kept(address);
    if (i < kept_count && kept[i].start <= address) drop(i);
    range *segment = i < kept_count ? found(address) : NULL;
    for (; segment && i < kept_count && kept[i].start < segment->start + segment->bytes; i++)
        if (kept[i].below < address) kept[i].below = address;
}

void emulated_words(const uintptr_t *words, int number) {
    if (!kept_count) return;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < number; i++)
        if (owner(words[i]) >= 0) handed(words[i]);
    pthread_mutex_unlock(&lock);
}

void emulated_handed(const void *address) { emulated_words((const uintptr_t *)&address, 1); }

static bool stack(uintptr_t *low, uintptr_t *high) {
    static __thread uintptr_t known_low, known_high;
    if (!known_high) {
        pthread_attr_t attributes;
        void *start;
        size_t bytes;
        if (pthread_getattr_np(pthread_self(), &attributes)) return false;
        pthread_attr_getstack(&attributes, &start, &bytes);
        pthread_attr_destroy(&attributes);
        known_low = (uintptr_t)start;
        known_high = known_low + bytes;
    }
    *low = known_low;
    *high = known_high;
    return true;
}

static int by_address(const void *a, const void *b) {
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;
    return x < y ? -1 : x > y;
}

/* How many parameters a kernel has, and how long they are, only its code says. They lie on the launching thread's
 * stack, as does the list of them; what follows the list may be taken for more of it, which only makes us forget more. */
void emulated_launch(void **parameters) {
    enum { MOST = 256 };
    uintptr_t low, high, starts[MOST], here = (uintptr_t)parameters;
    if (!kept_count || !parameters) return;
    if (!stack(&low, &high) || here < low || here >= high) {
        pthread_mutex_lock(&lock);
        while (kept_count) drop(kept_count - 1);
        pthread_mutex_unlock(&lock);
        return;
    }
    int number = 0;
    for (uintptr_t at = here; number < MOST && at + sizeof(void *) <= high; at += sizeof(void *)) {
        uintptr_t start = *(uintptr_t *)at;
        if (start < low || start >= high) break;
        starts[number++] = start;
    }
    qsort(starts, number, sizeof *starts, by_address);
    for (int i = 0; i < number; i++) {
        uintptr_t end = starts[i] + MOST_PARAMETERS;
        if (i + 1 < number && starts[i + 1] < end) end = starts[i + 1];
        if (end > high) end = high;
        uintptr_t aligned = starts[i] & ~(uintptr_t)7;
        if (end > aligned) emulated_words((const uintptr_t *)aligned, (int)((end - aligned) / sizeof(uintptr_t)));
    }
}

void emulated_on_guess(void (*told)(size_t)) { guess = told; }
void emulated_ask_block(uintptr_t (*asked)(uintptr_t)) { block = asked; }

void *emulated_handle(void) {
    static uintptr_t last = 0x1000;
    return (void *)__atomic_add_fetch(&last, 16, __ATOMIC_RELAXED);
}

_Noreturn void emulated_unknown(const char *library, const char *name) {
    fprintf(stderr, "emulated card: the program called %s of %s, which the emulated card does not know\n", name, library);
    abort();
}
