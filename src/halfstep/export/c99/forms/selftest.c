/* Runs the network on stored inputs and compares every output code with what halfstep computed. Exits with 0 where all are equal. */
#include "model.h"

#include <stdio.h>

$arrays

int main(void)
{
    static union {
        uint8_t bytes[${NAME}_ARENA_BYTES > 0 ? ${NAME}_ARENA_BYTES : 1];
        int64_t aligned;
    } arena;
    unsigned long wrong = 0;
    for (size_t i = 0; i < $count; ++i) {
        if ($call != 0) {
            printf("sample %lu: refused\n", (unsigned long)i);
            return 1;
        }
$compared
    }
    printf("${name}: $count samples, %lu wrong codes\n", wrong);
    return wrong != 0;
}
