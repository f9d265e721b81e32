/* A standing order (machine.standing_order): a periodic interrupt that the processor takes, and an end of interrupt that it hears, without
 * asking the devices each time. They are told of it all when simvirt_run has returned.
 *
 * Each interrupt is taken at the instruction at which the machine's loop would have delivered it. Whatever is not as usual then (IF is 0,
 * a shadow, the handler of the last one still at work, a delivery that is not plain) is the loop's: the run ends there, at its limit.
 */
#include "record.h"

enum { NS_PER_SECOND = 1000000000, DR7_ENABLED = 0xff };

/* The count of instructions at which the pulse falls, on a clock that counts a nanosecond for each and what was slept. */
static u64 count_at(const struct simvirt *s, u64 pulse) {
    const u64 hz = s->order_hz;
    return pulse / hz * NS_PER_SECOND + (pulse % hz * NS_PER_SECOND + hz - 1) / hz - s->order_slept;
}

static u64 until(const struct simvirt *s, u64 end) {
    const u64 due = count_at(s, s->order_pulse);
    return due < end ? due : end;
}

/* Where a run that is to end at `end` has to stop first. */
u64 limit_by_order(const struct simvirt *s, u64 end) { return s->order_stands ? until(s, end) : end; }

/* The limit has been reached. Is it a moment of the order's, and was the interrupt taken? Then the run goes on to the next limit. */
int take_ordered(struct simvirt *s, u64 end) {
    if (!s->order_stands || s->order_in_service || s->count >= end || s->count != count_at(s, s->order_pulse)) return 0;
    if (!(ENV64(s, s->off_env_eflags) & EFLAGS_IF) || ENV32(s, s->off_env_hflags) & HF_INHIBIT_IRQ) return 0;
    const struct interruption what = {.vector = s->order_vector, .source = SOURCE_EXTERNAL, .return_rip = ENV64(s, s->off_env_eip)};
    if (!deliver(s, &what)) return 0;
    s->order_in_service = 1;
    s->order_taken++;
    s->order_pulse += s->order_period;
    s->limit = until(s, end);
    return 1;
}

/* Is this OUT the end of the interrupt in service, which concerns nobody else? At CPL 0 it needs no permission; a breakpoint on the port is
 * looked after where all other accesses to ports are. */
int ends_ordered(struct simvirt *s, u32 port, int size, u32 value) {
    if (!s->order_stands || !s->order_in_service || port != s->order_end_port || size != 1 || value != s->order_end_value) return 0;
    if (CPL(s) || ENV64(s, s->off_env_dr + 56) & DR7_ENABLED) return 0;
    s->order_in_service = 0;
    return 1;
}
