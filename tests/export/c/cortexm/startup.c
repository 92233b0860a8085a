/* The least that a Cortex-M needs before main, and a way to talk to a debugger or to qemu (semihosting). */
#include "board.h"

extern uint32_t data_load[], data_start[], data_end[], bss_start[], bss_end[], stack_low[], stack_top[];

int main(void);
void reset(void);

static long semihost(long operation, const void *argument)
{
    register long r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void board_print(const char *text)
{
    semihost(0x04, text);
}

void board_number(uint32_t value)
{
    char text[10] = {'0', '0', '0', '0', '0', '0', '0', '0', '\n', 0};
    for (int i = 7; i >= 0; i--, value >>= 4) {
        text[i] = "0123456789abcdef"[value & 15u];
    }
    board_print(text);
}

void board_exit(int code)
{
    const uint32_t reason[2] = {0x20026u, (uint32_t)code};
    semihost(0x20, reason);
    for (;;) {
    }
}

enum { PAINT = 0x5ac3a55a };

/* SysTick, counting the processor's clock down from 2^24 - 1. */
#define SYST ((volatile uint32_t *)0xe000e010u)

void board_timer_start(void)
{
    SYST[1] = 0xffffffu;
    SYST[2] = 0;
    SYST[0] = 5;
}

uint32_t board_timer_ticks(void)
{
    return 0xffffffu - SYST[2];
}

uint32_t board_stack_used(void)
{
    const uint32_t *p = stack_low;
    while (p < stack_top && *p == (uint32_t)PAINT) {
        p++;
    }
    return (uint32_t)(stack_top - p) * 4u;
}

static void fault(void)
{
    board_print("fault\n");
    board_exit(99);
}

void reset(void)
{
    volatile uint32_t *const coprocessors = (volatile uint32_t *)0xe000ed88u;
    const uint32_t *from = data_load;
    uint32_t *here;
    *coprocessors |= 0xfu << 20; /* the floating point unit */
    __asm__ volatile("dsb\n isb" : : : "memory");
    for (uint32_t *p = data_start; p < data_end; p++) {
        *p = *from++;
    }
    for (uint32_t *p = bss_start; p < bss_end; p++) {
        *p = 0;
    }
    __asm__ volatile("mov %0, sp" : "=r"(here));
    for (uint32_t *p = stack_low; p < here - 16; p++) {
        *p = (uint32_t)PAINT;
    }
    board_exit(main());
}

typedef void (*vector)(void);
__attribute__((section(".vectors"), used)) static const vector vectors[16] = {
    (vector)(uintptr_t)stack_top, reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, fault};
