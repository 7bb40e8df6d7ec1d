/* Replays the golden vectors: text, ids, model, and the output compared byte by byte.
 * Exits with 0 when every vector is equal. With SHOAL_SYSTICK it counts instructions: QEMU
 * with "-icount shift=0" runs one instruction a nanosecond and the timer at 25 MHz. */
#include <stdio.h>
#include <string.h>

#include "golden.h"
#include "shoal_bundle.h"

#ifdef SHOAL_SYSTICK
#define SYST_CSR (*(volatile uint32_t *)0xE000E010u)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014u)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018u)
static void clock_start(void)
{
    SYST_RVR = 0xFFFFFFu;
    SYST_CVR = 0;
    SYST_CSR = 5;
}
static unsigned long clock_stop(void)
{
    return (unsigned long)(0xFFFFFFu - SYST_CVR) * 40u;
}
#else
static void clock_start(void)
{
}
static unsigned long clock_stop(void)
{
    return 0;
}
#endif

int main(void)
{
    unsigned long front_end = 0;
    unsigned long model = 0;
    int passed = 0;
    for (int i = 0; i < SHOAL_GOLDEN_COUNT; i++) {
        const shoal_golden *vector = &shoal_goldens[i];
        int ready;
        int ran;
        clock_start();
        ready = shoal_prepare(vector->text, vector->size);
        front_end += clock_stop();
        if (ready < 0) {
            printf("vector %d: the text is refused\n", i);
            continue;
        }
        clock_start();
        ran = shoal_run();
        model += clock_stop();
        if (ran != 0 || memcmp(shoal_scores(), vector->output, SHOAL_LABEL_COUNT) != 0) {
            printf("vector %d differs\n", i);
            continue;
        }
        passed++;
    }
    printf("{\"vectors\": %d, \"passed\": %d, \"front_end_instructions\": %lu, "
           "\"model_instructions\": %lu}\n",
           SHOAL_GOLDEN_COUNT, passed, front_end / SHOAL_GOLDEN_COUNT, model / SHOAL_GOLDEN_COUNT);
    return passed == SHOAL_GOLDEN_COUNT ? 0 : 1;
}
