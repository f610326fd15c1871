/* $program: an integer network, exported by halfstep. Build model.c with any C99 compiler and link it; see selftest.c for a whole program.
 *
 * All functions may be called from several threads at once, each with an arena of its own.
 */
#ifndef ${NAME}_MODEL_H
#define ${NAME}_MODEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ${NAME}_ARENA_BYTES $arena /* memory ${name}_run works in; the tensors alive at one time take at most $live of it */
#define ${NAME}_FLASH_BYTES $flash /* of weights, biases and tables, without the code */
#define ${NAME}_NUM_INPUTS $num_inputs
#define ${NAME}_NUM_OUTPUTS $num_outputs

$values

struct ${name}_tensor {
    const char *name;
    size_t size; /* codes of one sample */
    size_t num_axes;
    size_t shape[8];
    int32_t minimum, maximum, zero_point; /* of a code */
    int64_t scale_mantissa; /* what a step of one stands for: scale_mantissa * 2^scale_exponent, exactly */
    int scale_exponent;
};

/* Bytes of the arena: ${NAME}_ARENA_BYTES as model.c was built. */
size_t ${name}_arena_bytes(void);

/* The inputs, then the outputs; NULL beyond them. */
const struct ${name}_tensor *${name}_tensor(size_t index);

/* One sample. arena: that many bytes of any content, anywhere in memory (a static array, the stack, the heap); nothing is kept in it between
 * calls. Codes lie in row-major order of the shapes above, channels first as in the network. Outputs overlap neither inputs nor arena.
 * Returns 0, or 1 where an input code lies outside its bounds; then the outputs were not written. */
int ${name}_run($arguments);

#ifdef __cplusplus
}
#endif

#endif
