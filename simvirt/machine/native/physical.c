/* Guest-physical memory: what lies at an address, by the machine's regions or by the EPT of the VM that runs.
 *
 * Regions are the PC's own address decoding: RAM, ROM, devices, holes. With an EPT (SDM Vol. 3C 29.3) the processor takes a
 * guest-physical address through four levels of tables in host-physical memory instead; what those refuse is a violation or a
 * misconfiguration, and the VMM's business.
 */
#include <string.h>
#include "record.h"

/* Entries of EPT paging structures (SDM Vol. 3C Tables 29-1 to 29-7) and the EPT pointer (Table 25-9). */
#define EPT_READ 1ULL
#define EPT_WRITE 2ULL
#define EPT_EXECUTE 4ULL
#define EPT_RIGHTS 7ULL
#define EPT_LARGE (1ULL << 7)
#define EPT_ACCESSED (1ULL << 8)
#define EPT_DIRTY (1ULL << 9)
#define EPTP_ACCESSED_DIRTY (1ULL << 6)
enum { PML_ENTRIES = 512, EPT_LEVELS = 4, EPT_INDEX_BITS = 9, EPT_LARGEST_PAGE_LEVEL = 3 };

static const struct region *region_of(const struct simvirt *s, u64 page) {
    for (u64 i = 0; i < s->region_count; i++)
        if (page >= s->regions[i].first_page && page <= s->regions[i].last_page) return &s->regions[i];
    return NULL;
}

static enum refusal reach_region(const struct simvirt *s, u64 gpa, int access, struct target *t) {
    const struct region *r = region_of(s, gpa >> PAGE_SHIFT);
    t->executable = t->dirty = 1;
    t->writable = r && r->kind == REGION_RAM;
    if (!r || r->kind == REGION_HOLE) return REFUSED_HOLE;
    if (r->kind == REGION_MMIO) return REFUSED_MMIO;
    if (r->kind == REGION_ROM && access == ACCESS_WRITE) return REFUSED_ROM_WRITE;
    t->host_page = r->host_page + (gpa >> PAGE_SHIFT) - r->first_page;
    return REFUSED_NOTHING;
}

static int misconfigured(u64 entry, int level, u64 physical_mask) {
    const int leaf = level == 1 || (entry & EPT_LARGE);
    u64 reserved = ~physical_mask & 0x000ffffffffff000ULL;
    if ((entry & EPT_RIGHTS) == EPT_WRITE || (entry & EPT_RIGHTS) == (EPT_WRITE | EPT_EXECUTE)) return 1;
    if ((entry & EPT_RIGHTS) == EPT_EXECUTE) return 1;                     /* execute-only translations are not offered */
    if (!leaf) reserved |= level == EPT_LEVELS ? 0xf8 : 0x78;
    else {
        const u64 type = entry >> 3 & 7;
        if (level > EPT_LARGEST_PAGE_LEVEL || type == 2 || type == 3 || type == 7) return 1;
        reserved |= ((1ULL << (PAGE_SHIFT + (level - 1) * EPT_INDEX_BITS)) - 1) & PAGE_MASK;
    }
    return (entry & reserved) != 0;
}

/* Page-modification logging (SDM Vol. 3C 29.3.6): the guest-physical page goes into the log before its dirty flag is set; 0 when
 * the log is full. */
static int log_modification(struct simvirt *s, u64 gpa) {
    const u64 at = s->pml_address + s->pml_index * 8, page = gpa & PAGE_MASK;
    if (s->pml_index >= PML_ENTRIES) return 0;
    if (at >> PAGE_SHIFT < s->ram_pages) {                                /* what lies outside memory takes no writes */
        memcpy((u8 *)s->ram + at, &page, 8);
        ((u8 *)s->page_flags)[at >> PAGE_SHIFT] |= PAGE_DIRTY;
    }
    s->pml_index = (s->pml_index - 1) & 0xffff;
    return 1;
}

static enum refusal reach_by_ept(struct simvirt *s, u64 gpa, int access, int commit, struct target *t) {
    const u64 physical_mask = (1ULL << s->host_physical_bits) - 1, bytes = s->ram_pages << PAGE_SHIFT;
    const int flags = (s->ept_pointer & EPTP_ACCESSED_DIRTY) != 0;
    u64 table = s->ept_pointer & physical_mask & PAGE_MASK, rights = EPT_RIGHTS, entry = 0;
    u64 *slots[EPT_LEVELS] = {0};
    int level = EPT_LEVELS, shift = 0;
    t->gpa = gpa;
    if (gpa >> 48) { t->rights = 0; return REFUSED_EPT_VIOLATION; }
    for (;; level--) {
        shift = PAGE_SHIFT + (level - 1) * EPT_INDEX_BITS;
        const u64 at = table + (gpa >> shift & 511) * 8;
        t->level = level;
        entry = ~0ULL;                                                    /* where there is no memory, reads give ones */
        if (at < bytes) {
            slots[level - 1] = (u64 *)(s->ram + at);
            memcpy(&entry, slots[level - 1], 8);
        }
        if (!(entry & EPT_RIGHTS)) { t->rights = 0; return REFUSED_EPT_VIOLATION; }
        if (misconfigured(entry, level, physical_mask)) return REFUSED_EPT_MISCONFIGURATION;
        rights &= entry;
        if (level == 1 || (entry & EPT_LARGE)) break;
        table = entry & physical_mask & PAGE_MASK;
    }
    t->rights = rights & EPT_RIGHTS;
    t->writable = (rights & EPT_WRITE) != 0;
    t->executable = (rights & EPT_EXECUTE) != 0;
    if ((access == ACCESS_WRITE && !t->writable) || (access == ACCESS_FETCH && !t->executable)) return REFUSED_EPT_VIOLATION;
    if (commit && flags) {
        for (int l = EPT_LEVELS; l >= level; l--) {
            const u64 wanted = EPT_ACCESSED | (l == level && access == ACCESS_WRITE ? EPT_DIRTY : 0);
            u64 now;
            memcpy(&now, slots[l - 1], 8);
            if ((now & wanted) == wanted) continue;
            if (wanted & ~now & EPT_DIRTY && s->pml_address && !log_modification(s, gpa)) return REFUSED_PML_FULL;
            now |= wanted;
            memcpy(slots[l - 1], &now, 8);
            ((u8 *)s->page_flags)[((u64)slots[l - 1] - s->ram) >> PAGE_SHIFT] |= PAGE_DIRTY;
            entry = l == level ? now : entry;
        }
    }
    t->dirty = !flags || (entry & EPT_DIRTY);
    const u64 host = (entry & physical_mask & PAGE_MASK & ~((1ULL << shift) - 1)) | (gpa & ((1ULL << shift) - 1));
    t->host_page = host >> PAGE_SHIFT;
    return t->host_page < s->ram_pages ? REFUSED_NOTHING : REFUSED_HOLE;
}

/* What lies at a guest-physical address. `commit` sets the EPT's accessed and dirty flags. */
enum refusal reach(struct simvirt *s, u64 gpa, int access, int commit, struct target *t) {
    gpa &= s->a20_mask;
    return s->ept_pointer ? reach_by_ept(s, gpa, access, commit, t) : reach_region(s, gpa, access, t);
}

/* Host pointer to guest-physical memory, NULL where there is none to read or write. */
u8 *physical(struct simvirt *s, u64 gpa, int for_write) {
    struct target t = {0};
    if (reach(s, gpa, for_write ? ACCESS_WRITE : ACCESS_READ, for_write, &t)) return NULL;
    return (u8 *)s->ram + (t.host_page << PAGE_SHIFT) + (gpa & ~PAGE_MASK);
}

/* An entry of the guest's paging structures. With accessed and dirty flags in the EPT the processor's accesses to those count as writes
 * (SDM Vol. 3C 29.3.5). What the EPT refuses is left in `w`. */
u64 read_entry(struct simvirt *s, u64 gpa, int size, int commit, struct walk *w) {
    struct target t = {0};
    const int access = s->ept_pointer & EPTP_ACCESSED_DIRTY ? ACCESS_WRITE : ACCESS_READ;
    const enum refusal why = reach(s, gpa, access, commit, &t);
    if (by_ept(why)) {
        w->refusal = why, w->target = t, w->structure_access = access;
        return 0;
    }
    u64 v = ~0ULL;                                                        /* a hole reads as ones */
    if (!why) {
        v = 0;
        memcpy(&v, (u8 *)s->ram + (t.host_page << PAGE_SHIFT) + (gpa & ~PAGE_MASK), (size_t)size);
    }
    return size == 4 ? (u32)v : v;
}

/* Set flags in an entry of the guest's paging structures; 0 when the EPT refuses the write, which is left in `w`. */
int set_entry_flags(struct simvirt *s, u64 gpa, u8 flags, struct walk *w) {
    struct target t = {0};
    enum refusal why = reach(s, gpa, ACCESS_READ, 0, &t);
    u8 *p = (u8 *)s->ram + (t.host_page << PAGE_SHIFT) + (gpa & ~PAGE_MASK);
    if (why || (*p & flags) == flags) return 1;
    why = reach(s, gpa, ACCESS_WRITE, 1, &t);
    if (why == REFUSED_EPT_VIOLATION || why == REFUSED_PML_FULL) {
        w->refusal = why, w->target = t, w->structure_access = ACCESS_WRITE;
        return 0;
    }
    if (why) return 1;                                                    /* tables in ROM keep what they have */
    *p |= flags;
    ((u8 *)s->page_flags)[t.host_page] |= PAGE_DIRTY;
    return 1;
}
