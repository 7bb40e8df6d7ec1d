/* Vector table for QEMU's mps2-an385 (Cortex-M3) and mps2-an386 (Cortex-M4) boards. */
#include <stdint.h>

extern uint32_t stack_top;
extern void _start(void);

static void hang(void)
{
    for (;;) {
    }
}

void (*const vectors[16])(void) __attribute__((section(".vectors"), used)) = {
    (void (*)(void))(uintptr_t)&stack_top, _start, hang, hang, hang, hang, hang,
    0, 0, 0, 0, hang, hang, 0, hang, hang};
