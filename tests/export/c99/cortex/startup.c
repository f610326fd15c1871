/* The least a Cortex-M needs before main: a vector table, initialised data, and the floating-point unit left off. */
#include <stdint.h>

extern uint32_t data_from, data_start, data_end, bss_start, bss_end, stack_top;
extern void initialise_monitor_handles(void);
extern int main(void);
extern void exit(int status);

/* What the C library runs at the end. */
void _fini(void)
{
}

void reset(void)
{
    uint32_t *from = &data_from;
    for (uint32_t *to = &data_start; to < &data_end; ++to)
        *to = *from++;
    for (uint32_t *to = &bss_start; to < &bss_end; ++to)
        *to = 0;
    initialise_monitor_handles();
    exit(main());
}

static void stop(void)
{
    exit(3);
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    &stack_top, (void *)reset, (void *)stop, (void *)stop, (void *)stop, (void *)stop, (void *)stop,
};
