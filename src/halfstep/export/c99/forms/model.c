/* $program: written by halfstep. */
#include "model.h"

#include "kernels.h"

$arrays

$functions
static const struct ${name}_tensor ${name}_tensors[${NAME}_NUM_INPUTS + ${NAME}_NUM_OUTPUTS] = {
$tensors
};

size_t ${name}_arena_bytes(void) { return ${NAME}_ARENA_BYTES; }

const struct ${name}_tensor *${name}_tensor(size_t index)
{
    return index < ${NAME}_NUM_INPUTS + ${NAME}_NUM_OUTPUTS ? &${name}_tensors[index] : NULL;
}

int ${name}_run($arguments)
{
    uint8_t *const memory = arena;$unused
$body
    return 0;
}
